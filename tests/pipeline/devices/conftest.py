"""The real TPUStrategy on a slice that is only described: graphs can be built for it anywhere, and nothing runs."""

import concurrent.futures
import socket

import grpc
import pytest


def describe(piece):
    """Returns (resolver, topology) for a slice of two-core chips in hosts of 2×2 chips, such as v3-8 and v3-128."""
    import tensorflow as tf
    from tensorflow.core.protobuf.tpu import topology_pb2
    from tensorflow.python.eager.context import LogicalDevice
    from tensorflow.python.tpu.topology import Topology
    from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

    wide, high = (int(edge) for edge in piece.topology.split("x"))
    cores_per_host = piece.cores // piece.hosts
    mesh = topology_pb2.TopologyProto(
        mesh_shape=[wide, high, 1, 2], num_tasks=piece.hosts, num_tpu_devices_per_task=cores_per_host
    )
    for host in range(piece.hosts):
        left, top = 2 * (host % (wide // 2)), 2 * (host // (wide // 2))
        for chip in range(4):
            for core in range(2):
                mesh.device_coordinates.extend([left + chip % 2, top + chip // 2, 0, core])
    topology = Topology(serialized=mesh.SerializeToString())
    names = [f"/job:worker/replica:0/task:{task}/device:" for task in range(piece.hosts)]
    devices = [LogicalDevice(f"{name}TPU:{core}", "TPU") for name in names for core in range(cores_per_host)]
    devices += [LogicalDevice(f"{name}CPU:0", "CPU") for name in names]
    metadata = TPUSystemMetadata(
        num_cores=piece.cores,
        num_hosts=piece.hosts,
        num_of_cores_per_host=cores_per_host,
        topology=topology,
        devices=devices,
    )

    class Described(tf.distribute.cluster_resolver.ClusterResolver):
        task_type = None
        environment = ""
        tpu_hardware_feature = None

        def master(self, *args, **kwargs):
            return ""

        get_master = master

        def cluster_spec(self):
            return tf.train.ClusterSpec({})

        def get_job_name(self):
            return "worker"

        def num_accelerators(self, *args, **kwargs):
            return {"TPU": cores_per_host}

        def get_tpu_system_metadata(self):
            return metadata

    return Described(), topology


@pytest.fixture
def described_strategy():
    """A function from a slice's name to the TPUStrategy over all its cores."""
    import tensorflow as tf
    from tensorflow.python.tpu.device_assignment import device_assignment

    from pipeline.devices import slices

    def build(name):
        piece = slices.find(name)
        resolver, topology = describe(piece)
        assignment = device_assignment(topology, num_replicas=piece.cores)
        return tf.distribute.TPUStrategy(resolver, experimental_device_assignment=assignment)

    return build


@pytest.fixture
def metadata_says(metadata_server):
    """A function that gives the VM of ``metadata_server`` attributes."""
    return lambda attributes: metadata_server.say({f"attributes/{name}": text for name, text in attributes.items()})


@pytest.fixture
def listening():
    """An address on loopback at which a gRPC server answers, as TensorFlow's does."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None)


@pytest.fixture
def closed():
    """An address on loopback at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"
