"""The training program as the real TPUStrategy builds it for v3-8 and v3-128, asserted on its graph; nothing runs."""

import math
from collections import Counter

import pytest
import tensorflow as tf

import models
from models.config import ALGPT2Config, GPT2Config
from pipeline.training import batch
from pipeline.training.optimizers import AdafactorConfig, AdamWConfig
from pipeline.training.schedules import Schedule
from pipeline.training.step import make_train_step, strategy_options

CONTEXT, MICROBATCH, ACCUMULATION, VOCABULARY = 128, 2, 2, 500
SIZE = {"layers": 2, "heads": 2, "width": 128, "context": CONTEXT, "vocabulary_size": VOCABULARY}
OPTIMIZERS = {
    "adafactor": AdafactorConfig(learning_rate=1e-3, weight_decay=0.1),
    "adamw": AdamWConfig(learning_rate=1e-3, weight_decay=0.1),
    "adamw, sharded slots": AdamWConfig(learning_rate=1e-3, weight_decay=0.1, slots="sharded"),
}
# Ops that leave the device, or that the TPU has no kernel for.
FORBIDDEN = {
    *("PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunction", "Print", "PrintV2", "AsString", "StringFormat"),
    *("OutfeedEnqueue", "OutfeedEnqueueTuple", "InfeedDequeue", "InfeedDequeueTuple", "XlaHostCompute", "HostConst"),
    *("_XlaSendFromHost", "_XlaRecvAtHost", "Assert", "Where", "Unique", "RandomUniform", "RandomStandardNormal"),
}
# What tpu.replicate itself puts around the program.
AROUND = {"TPUReplicateMetadata", "TPUReplicatedInput", "TPUReplicatedOutput", "TPUCompilationResult"}


def trace(strategy, model_config, optimizer_config):
    """Returns (graph, model, optimizer): the step under the strategy, as a pod would be given it."""
    replicas = strategy.num_replicas_in_sync
    plan = batch.plan(
        global_batch=replicas * ACCUMULATION * MICROBATCH, replicas=replicas, microbatch=MICROBATCH, context=CONTEXT
    )
    graph = tf.Graph()
    with graph.as_default():
        with strategy.scope():
            model = models.build(model_config, compute_dtype="bfloat16")
            optimizer = optimizer_config.build(Schedule(kind="linear", steps=100, warmup_steps=10))
            optimizer.build(model.trainable_variables)
        step = make_train_step(model, optimizer, plan, clip_norm=1.0, **strategy_options(strategy))
        rows = ACCUMULATION * MICROBATCH
        inputs = {"tokens": tf.zeros([rows, CONTEXT + 1], tf.int32), "index": tf.zeros([rows], tf.int64)}
        strategy.run(step, args=(inputs,))
    return graph, model, optimizer


def replicated(graph):
    """Returns the ops of the replicated step, those inside its loops and branches in a second list."""
    outer = [op for op in graph.get_operations() if "_tpu_replicate" in op.node_def.attr]
    inner, pending = [], [op for op in outer if function_names(op)]
    functions = {definition.signature.name: definition for definition in graph.as_graph_def().library.function}
    seen = set()
    names = [name for op in pending for name in function_names(op)]
    while names:
        name = names.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        inner += functions[name].node_def
        names += [called for node in functions[name].node_def for called in called_by(node)]
    return outer, inner


def function_names(op):
    return called_by(op.node_def)


def called_by(node):
    single = [value.func.name for value in node.attr.values() if value.HasField("func")]
    return single + [f.name for value in node.attr.values() for f in value.list.func]


def check_program(graph, model, optimizer, replicas):
    outer, inner = replicated(graph)
    kinds = Counter(op.type for op in outer)
    variables = model.trainable_variables
    # Variables stand on every core.
    for variable in [*variables, *optimizer.variables]:
        assert type(variable.value).__name__ == "TPUDistributedVariable" or len(variable.value.values) == replicas
        devices = {copy.device for copy in variable.value.values}
        assert len(devices) == replicas and all("TPU:" in device for device in devices)
    # One all-reduce for each gradient, one for the loss and one for the token count: outside every loop. Where each
    # core has its rows of the slots, one more for each variable's new weights.
    split = optimizer.slot_owners > 1
    assert kinds["CrossReplicaSum"] == (2 if split else 1) * len(variables) + 2
    for variable in variables if split else ():
        for slot in optimizer.slots(variable).values():
            rows, others = variable.shape[0], variable.shape[1:]
            assert {tuple(copy.shape) for copy in slot.value.values} == {(math.ceil(rows / replicas), *others)}
    assert not [node for node in inner if node.op == "CrossReplicaSum"]
    for op in (op for op in outer if op.type == "CrossReplicaSum"):
        groups = tf.get_static_value(op.inputs[1])
        assert sorted(groups.flatten().tolist()) == list(range(replicas))
    # The accumulation is a loop, and nothing in the step goes to the host.
    assert kinds["While"] + kinds["StatelessWhile"] >= 1
    used = {op.type for op in outer} | {node.op for node in inner}
    assert not used & FORBIDDEN, used & FORBIDDEN
    # Shapes are known throughout, in loops too (their bodies' nodes carry what they were traced with).
    for op in outer:
        for output in op.outputs:
            if op.type not in AROUND and output.dtype not in (tf.resource, tf.variant):
                assert output.shape.is_fully_defined(), (op.name, output.shape)
    for node in inner:
        for shape in node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ():
            assert not shape.unknown_rank and all(axis.size >= 0 for axis in shape.dim), node.name


def every_program(test):
    """Runs a test on each model, optimizer and rematerialisation."""
    for name, values in (("remat", ["none", "full"]), ("optimizer", OPTIMIZERS), ("kind", [GPT2Config, ALGPT2Config])):
        test = pytest.mark.parametrize(name, values)(test)
    return pytest.mark.slow(test)


@every_program
def test_a_host_of_v3(described_strategy, kind, optimizer, remat):
    strategy = described_strategy("v3-8")
    traced = trace(strategy, kind(remat=remat, **SIZE), OPTIMIZERS[optimizer])
    check_program(*traced, replicas=8)


@every_program
def test_the_pod(described_strategy, kind, optimizer, remat):
    strategy = described_strategy("v3-128")
    assert strategy.extended.num_hosts == 16
    traced = trace(strategy, kind(remat=remat, **SIZE), OPTIMIZERS[optimizer])
    check_program(*traced, replicas=128)


def test_the_checks_can_fail(described_strategy):
    """A step that averages inside its loop, or that prints, is caught."""
    strategy = described_strategy("v3-8")
    graph = tf.Graph()
    with graph.as_default():

        def body(i, total):
            part = tf.distribute.get_replica_context().all_reduce("SUM", total)
            tf.print(part)
            return i + 1, part

        def step():
            return tf.while_loop(lambda i, _: i < 3, body, (0, tf.ones([4])), maximum_iterations=3)[1]

        strategy.run(step)
    _, inner = replicated(graph)
    kinds = {node.op for node in inner}
    assert "CrossReplicaSum" in kinds
    assert kinds & FORBIDDEN


def test_each_of_16_hosts_gets_its_part(described_strategy):
    strategy = described_strategy("v3-128")
    asked = []

    def rows_of(host):
        asked.append((host.input_pipeline_id, host.num_input_pipelines, host.num_replicas_in_sync))
        return tf.data.Dataset.range(8).batch(1, drop_remainder=True)

    with tf.Graph().as_default():
        strategy.distribute_datasets_from_function(rows_of)
    assert asked == [(host, 16, 128) for host in range(16)]
