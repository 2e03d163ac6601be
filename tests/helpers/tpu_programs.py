"""The replicated program in a graph that TPUStrategy has built, and what must hold of it."""

import dataclasses
from collections import Counter
from typing import Any

import tensorflow as tf

# Ops that leave the device, or that the TPU has no kernel for.
PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunction"}
FORBIDDEN = PYTHON | {
    *("Print", "PrintV2", "AsString", "StringFormat"),
    *("OutfeedEnqueue", "OutfeedEnqueueTuple", "InfeedDequeue", "InfeedDequeueTuple", "XlaHostCompute", "HostConst"),
    *("_XlaSendFromHost", "_XlaRecvAtHost", "Assert", "Where", "Unique", "RandomUniform", "RandomStandardNormal"),
}
# Gives axes, from shapes alone: XLA knows them when it compiles.
AXES = {"BroadcastGradientArgs"}
LOOPS = {"While", "StatelessWhile"}
# What tpu.replicate itself puts around the program.
AROUND = {"TPUReplicateMetadata", "TPUReplicatedInput", "TPUReplicatedOutput", "TPUCompilationResult"}


@dataclasses.dataclass(frozen=True)
class Program:
    """The nodes of a graph by where they run.

    Attributes:
      outer: of the replicated step.
      inner: of the loops, branches and functions within it.
      groups: of each all-reduce in ``outer``, the replicas that take part.
      everything: op types of the whole graph, its input pipelines included.
      looped: whether the step is the body of a loop, or in one.
    """

    outer: list[Any]
    inner: list[Any]
    groups: list[list[int]]
    everything: set[str]
    looped: bool


def program_of(graph):
    """Returns the one replicated program of a graph, wherever in its functions it is."""
    definition = graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function.node_def for function in definition.library.function}
    bodies = {"": definition.node, **functions}
    homes = [name for name, nodes in bodies.items() if any(node.op == "TPUReplicateMetadata" for node in nodes)]
    assert len(homes) == 1, homes
    home = {node.name: node for node in bodies[homes[0]]}
    outer = [node for node in home.values() if "_tpu_replicate" in node.attr]
    inner, seen = [], set()
    names = [name for node in outer for name in called_by(node)]
    while names:
        name = names.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        inner += functions[name]
        names += [called for node in functions[name] for called in called_by(node)]
    reduced = [node for node in outer if node.op == "CrossReplicaSum"]
    groups = [tf.make_ndarray(home[node.input[1].split(":")[0]].attr["value"].tensor) for node in reduced]
    everything = [node for nodes in bodies.values() for node in nodes]
    looped = {node.attr["body"].func.name for node in everything if node.op in LOOPS}
    return Program(
        outer=outer,
        inner=inner,
        groups=[group.flatten().tolist() for group in groups],
        everything={node.op for node in everything},
        looped=homes[0] in looped,
    )


def constants_of(nodes):
    """Returns the values of the float32 scalars among nodes."""
    constants = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    return {tf.make_ndarray(value).item() for value in constants if value.dtype == 1 and not value.tensor_shape.dim}


def called_by(node):
    single = [value.func.name for value in node.attr.values() if value.HasField("func")]
    return single + [f.name for value in node.attr.values() for f in value.list.func]


def check_it_stays_on_the_cores(program):
    used = {node.op for node in [*program.outer, *program.inner]}
    assert not used & FORBIDDEN, used & FORBIDDEN
    assert not program.everything & PYTHON  # input pipelines run on hosts that have no Python of ours


def check_shapes_are_static(program):
    for nodes in (program.outer, program.inner):
        shapes = [
            (node.name, shape)
            for node in nodes
            if node.op not in AROUND | AXES
            for shape in node.attr["_output_shapes"].list.shape
        ]
        assert shapes, "the graph does not tell its shapes"
        for name, shape in shapes:
            assert not shape.unknown_rank and all(axis.size >= 0 for axis in shape.dim), (name, shape)


def check_all_reduces(program, shapes, replicas):
    """There is one for each of ``shapes``, over all replicas, and none in a loop within the step."""
    reduced = [node for node in program.outer if node.op == "CrossReplicaSum"]
    found = [tuple(axis.size for axis in node.attr["_output_shapes"].list.shape[0].dim) for node in reduced]
    assert Counter(found) == Counter(shapes)
    assert all(sorted(group) == list(range(replicas)) for group in program.groups)
    assert not [node for node in program.inner if node.op == "CrossReplicaSum"]
