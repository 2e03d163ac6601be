"""Checkpoints that are either complete or absent, written while the next steps run.

    checkpoints/step-00001000/state.index, state.data-…    a TensorFlow checkpoint of every variable, by name
                              commit.json                  written last: step, metadata, bytes and crc32c of each file

Without ``commit.json`` there is no checkpoint. Variable names (``weights/block_00/mlp_input_kernel``) do not depend on
replicas or devices, so any topology restores the checkpoints of any other. Paths are local or ``gs://``, where an
object appears only when its upload is complete. TensorFlow writes and reads the state, so tf.io.gfile makes and deletes
its folders; commits and the other files of a run directory go through pipeline.storage.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from models.protocols import LanguageModel
from models.tf_checkpoints import plain_name
from pipeline.devices.connect import on_this_machine
from pipeline.errors import UserError, WorkFailedError, disk_fault
from pipeline.optimizers.base import Optimizer
from pipeline.runs import checkpoint_files
from pipeline.runs.checkpoint_files import Checkpoint

gfile = tf.io.gfile

PREFIX = "state"
BEST = "best"  # the folder of the weights of the lowest validation loss


def state_of(model: LanguageModel, optimizer: Optimizer | None = None) -> dict[str, tf.Variable]:
    """Returns the state of a run, or of only the model, with names and shapes that do not depend on the topology."""
    state = {f"weights/{variable.path}": variable.value for variable in model.variables}
    if optimizer is not None:
        state |= {f"optimizer/{name}": value for name, value in optimizer.state().items()}
    return state


class Checkpoints:
    """Saves and restores a set of variables.

    Args:
        directory: of all checkpoints of a run, local or ``gs://``; created with the first checkpoint.
        variables: name -> variable; mirrored over any number of replicas, plain, or WholeSlots for split ones.
        reference: JSON values in every commit: the seed and the identity of the data.
        keep_last: number of newest checkpoints to keep.
        keep_every: steps; checkpoints at multiples of it are kept permanently. 0: none.
        writes: whether this process writes; only one of several workers does.
    """

    def __init__(
        self,
        directory: str,
        variables: Mapping[str, tf.Variable],
        *,
        reference: Mapping[str, Any] | None = None,
        keep_last: int = 3,
        keep_every: int = 0,
        writes: bool = True,
    ):
        self._directory, self._variables = directory.rstrip("/"), dict(variables)
        self._reference = dict(reference or {})
        self._keep_last, self._keep_every, self._writes = keep_last, keep_every, writes
        self._writer = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: futures.Future[None] | None = None
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Returns the steps of committed checkpoints, ascending."""
        return checkpoint_files.steps(self._directory)

    def save(self, step: int, metadata: Mapping[str, Any]) -> None:
        """Copies the variables to this host and writes them in a thread; raises the previous write's error.

        The metadata are JSON values, kept in the commit with the reference.
        """
        if not self._writes:
            return
        self.wait()
        metadata = json.loads(json.dumps({**self._reference, **metadata}))
        values = {name: _copy(variable) for name, variable in self._variables.items()}
        self._written = self._writer.submit(self._write, step, metadata, values)

    def wait(self) -> None:
        """Blocks until the last checkpoint is committed; raises the write's error."""
        if self._written is not None:
            try:
                self._written.result()
            finally:
                self._written = None

    def finish(self, seconds: float) -> None:
        """Blocks until the checkpoint in progress is committed or has failed, for at most ``seconds``.

        Works from any thread, for a process that ends because it lost a worker.
        """
        if written := self._written:
            futures.wait([written], timeout=seconds)

    @contextlib.contextmanager
    def named_on_disk_faults(self) -> Iterator[None]:
        """Turns a disk fault in any of the run's writes into one line that names the newest checkpoint."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            fault = disk_fault(error)
            if fault is None:
                raise
            with contextlib.suppress(OSError, tf.errors.OpError):  # perhaps the same fault again
                self.wait()
            steps = self.steps()
            rest = "there is no checkpoint yet; with room, the same command begins again"
            if steps:
                newest = f"the newest whole checkpoint is of step {steps[-1]:,}"
                rest = f"{newest}; with room, the same command continues from it"
            raise WorkFailedError(f"{fault}; {rest}") from error

    def restore_newest(self) -> Checkpoint | None:
        """Restores the newest undamaged checkpoint and returns it; None if nothing has been committed.

        Raises:
            UserError: all checkpoints are damaged, or the newest undamaged one has other variables.
        """
        self.wait()
        newest = checkpoint_files.newest_sound(self._directory)
        if newest is None:
            return None
        checkpoint, self._damaged = newest
        _assign(checkpoint, self._variables)
        return checkpoint

    def _write(self, step: int, metadata: Mapping[str, Any], values: Mapping[str, tf.Tensor]) -> None:
        folder = f"{self._directory}/{checkpoint_files.folder_name(step)}"
        if gfile.exists(folder):
            if step not in self._damaged:
                with contextlib.suppress(checkpoint_files.DamagedError):
                    checkpoint_files.load(folder)
                    return  # already saved: the same step of the same run
            gfile.rmtree(folder)  # half-written by a killed process
        try:
            self._write_new(folder, {"step": step, "metadata": metadata}, values)
        except Exception:  # a full disk, for example; the next process needs room
            with contextlib.suppress(tf.errors.OpError, OSError):
                gfile.rmtree(folder)
            raise
        self._damaged.discard(step)
        self._delete_old()

    def _write_new(self, folder: str, document: dict[str, Any], values: Mapping[str, tf.Tensor]) -> None:
        gfile.makedirs(folder)
        with on_this_machine():
            _write_state(f"{folder}/{PREFIX}", values)
        files = {name: checkpoint_files.measure(f"{folder}/{name}") for name in sorted(gfile.listdir(folder))}
        checkpoint_files.commit(folder, json.dumps(document | {"files": files}, indent=1))

    def _delete_old(self) -> None:
        steps = [step for step in checkpoint_files.steps(self._directory) if step not in self._damaged]
        for step in steps[: -self._keep_last]:
            if not self._keep_every or step % self._keep_every:
                folder = f"{self._directory}/{checkpoint_files.folder_name(step)}"
                gfile.remove(f"{folder}/{checkpoint_files.COMMIT}")  # first: a half-deleted one is not committed
                gfile.rmtree(folder)


def restore_weights(directory: str, model: LanguageModel) -> Checkpoint:
    """Loads the newest undamaged checkpoint's weights into a model built like the run's.

    Raises:
        UserError: there is no such checkpoint, or it belongs to another model.
    """
    newest = checkpoint_files.newest_sound(directory)
    if newest is None:
        raise UserError(f"{directory} holds no checkpoint; expected the checkpoints of a run of pipeline.train")
    checkpoint, _ = newest
    _assign(checkpoint, state_of(model))
    return checkpoint


def _assign(checkpoint: Checkpoint, variables: Mapping[str, tf.Variable]) -> None:
    """Assigns a checkpoint's values; UserError names the variables that it lacks or that have other shapes."""
    with plain_name(checkpoint.folder) as folder:
        reader = tf.train.load_checkpoint(f"{folder}/{PREFIX}")
        shapes = reader.get_variable_to_shape_map()
        wrong = []
        for name, variable in variables.items():
            saved = shapes.get(_key(name))
            if saved is None:
                wrong.append(f"{name} is missing there")
            elif list(saved) != variable.shape.as_list():
                wrong.append(f"{name} has shape {saved} there and {variable.shape.as_list()} here")
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(f"{checkpoint.folder} is of another model or optimizer: {'; '.join(wrong[:3])}{more}")
        for name, variable in variables.items():
            variable.assign(reader.get_tensor(_key(name)))


def _copy(variable: tf.Variable) -> tf.Tensor:
    """Returns a copy of a variable's value in this process's memory, as the tensor to write.

    The writing thread must not make it: malloc does not give one thread's freed memory to another, so this process
    would hold everything twice.
    """
    value = variable.numpy()
    with on_this_machine():
        return tf.constant(value)


def _write_state(prefix: str, values: Mapping[str, tf.Tensor]) -> None:
    """Writes the same as ``tf.train.Checkpoint(variables=values).write(prefix)``.

    That first waits for all hosts, forever if one is gone, so this process would not end.
    """
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.nodes.add().children.add(node_id=1, local_name="variables")
    holder = graph.nodes.add()
    for node_id, name in enumerate(values, len(graph.nodes)):
        holder.children.add(node_id=node_id, local_name=name)
        graph.nodes.add().attributes.add(name="VARIABLE_VALUE", full_name=name, checkpoint_key=_key(name))
    names = [_key(name) for name in values]
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[*names, "_CHECKPOINTABLE_OBJECT_GRAPH"],
        shape_and_slices=[""] * (len(names) + 1),
        tensors=[*values.values(), tf.constant(graph.SerializeToString())],
    )


def _key(name: str) -> str:
    """Returns tf.train.Checkpoint's name of ``variables[name]``, with dots and slashes escaped."""
    return f"variables/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"
