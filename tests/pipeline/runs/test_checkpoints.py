"""Checkpoints are complete or absent, are restored on any topology, and skipping one gives a warning."""

import errno
import json
import logging
import os
import resource
import threading

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UserError, WorkFailedError
from pipeline.runs import checkpoint_files, checkpoints
from pipeline.runs.checkpoints import Checkpoints
from tests.helpers.hostile import NAMES


def variables(seed, shape=(3, 5)):
    generator = np.random.default_rng(seed)
    return {
        "weights/block_00/kernel.x": tf.Variable(generator.normal(size=shape).astype(np.float32)),
        "optimizer/iteration": tf.Variable(seed, dtype=tf.int32),
    }


def values(state):
    return {name: variable.numpy().tolist() for name, variable in state.items()}


def saved(directory, steps, **options):
    state = variables(0)
    keeper = Checkpoints(str(directory), state, **options)
    for step in steps:
        state["optimizer/iteration"].assign(step)
        keeper.save(step, {"seed": 5, "record": {"loss": step / 2}})
    keeper.wait()
    return state


def restored(directory):
    state = variables(1)
    return Checkpoints(str(directory), state).restore_newest(), state


def test_what_was_saved_comes_back_with_its_metadata(tmp_path):
    state = saved(tmp_path / "c", [10, 20])
    checkpoint, other = restored(tmp_path / "c")
    assert checkpoint.step == 20
    assert checkpoint.metadata == {"seed": 5, "record": {"loss": 10.0}}
    assert values(other) == values(state)


@pytest.mark.parametrize("name", NAMES)
def test_folders_may_have_any_name(tmp_path, name):
    """TensorFlow's reader takes them for patterns."""
    state = saved(tmp_path / name / "checkpoints", [10, 20, 30, 40], keep_last=2)
    assert checkpoint_files.steps(str(tmp_path / name / "checkpoints")) == [30, 40]
    checkpoint, other = restored(tmp_path / name / "checkpoints")
    assert checkpoint.step == 40 and values(other) == values(state)


def test_who_may_not_read_checkpoints_is_told_so(tmp_path, as_nobody):
    """A run without its checkpoints would begin again, and one without its newest would continue from an older one."""
    saved(tmp_path, [10, 20])
    for folder, mode in ((tmp_path / "step-00000020", 0o700), (tmp_path, 0o711), (tmp_path, 0o700)):
        folder.chmod(mode)
        with as_nobody(), pytest.raises(UserError, match="cannot be read"):
            restored(tmp_path)
        folder.chmod(0o755)


def test_a_full_disk_leaves_nothing_half_written_and_names_the_newest_checkpoint(tmp_path):
    """A limit on the size of a file is the system's refusal, and TensorFlow's words for it."""
    state = variables(0)
    keeper = Checkpoints(str(tmp_path), state)
    keeper.save(10, {})
    keeper.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = "File too large; the newest whole checkpoint is of step 10; with room"
    with pytest.raises(WorkFailedError, match=said), keeper.named_on_disk_faults():
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        try:
            keeper.save(20, {})
            keeper.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    keeper.save(20, {})
    keeper.wait()
    assert restored(tmp_path)[0].step == 20, "the same command continues with room"


def test_a_disk_fault_while_another_checkpoint_is_written_waits_for_it(tmp_path):
    keeper = Checkpoints(str(tmp_path), variables(0))
    said = "^log: No space left on device; the newest whole checkpoint is of step 5"
    with pytest.raises(WorkFailedError, match=said), keeper.named_on_disk_faults():
        keeper.save(5, {})
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log")
    with pytest.raises(FileNotFoundError), keeper.named_on_disk_faults():
        (tmp_path / "missing").read_text()


def test_a_directory_without_checkpoints_restores_nothing(tmp_path):
    assert restored(tmp_path / "missing")[0] is None


def test_it_is_a_tensorflow_checkpoint_that_others_can_read(tmp_path):
    state = saved(tmp_path, [7])
    other = variables(1)
    tf.train.Checkpoint(variables=other).read(str(tmp_path / "step-00000007" / "state")).assert_consumed()
    assert values(other) == values(state)


def test_saving_copies_first_so_that_training_may_go_on_at_once(tmp_path, monkeypatch):
    state, held = variables(0), []
    keeper = Checkpoints(str(tmp_path), state)
    write = keeper._write
    monkeypatch.setattr(keeper, "_write", lambda *arguments: (held.append(1), write(*arguments)))
    before = values(state)
    keeper.save(1, {})
    for variable in state.values():
        variable.assign(variable * 0)
    keeper.wait()
    assert held and values(restored(tmp_path)[1]) == before


def test_a_lost_process_waits_for_its_checkpoint_and_not_for_ever(tmp_path, monkeypatch):
    keeper, released = Checkpoints(str(tmp_path), variables(0)), threading.Event()
    keeper.finish(60)
    write = keeper._write
    monkeypatch.setattr(keeper, "_write", lambda *arguments: (released.wait(60), write(*arguments)))
    keeper.save(1, {})
    keeper.finish(0.01)
    assert not keeper.steps()
    waits = threading.Thread(target=keeper.wait)  # as the main thread may when another notices the loss
    waits.start()
    released.set()
    keeper.finish(60)
    assert keeper.steps() == [1]
    waits.join()


@pytest.mark.parametrize("there", [1, 2, 4])
@pytest.mark.parametrize("here", [1, 2, 4])
def test_any_number_of_replicas_restores_what_any_other_saved(tmp_path, virtual_devices, there, here):
    def mirrored(replicas, seed):
        with tf.distribute.MirroredStrategy(virtual_devices[:replicas]).scope():
            return variables(seed)

    state = mirrored(there, 0)
    keeper = Checkpoints(str(tmp_path), state)
    keeper.save(3, {})
    keeper.wait()
    other = mirrored(here, 1)
    Checkpoints(str(tmp_path), other).restore_newest()
    for name, variable in other.items():
        for copy in getattr(variable, "values", [variable]):
            assert np.array_equal(copy.numpy(), state[name].numpy())


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "missing data", "commit is not JSON", "no commit"])
def test_a_broken_newest_one_is_passed_over_with_a_warning(tmp_path, damage, caplog):
    saved(tmp_path, [1, 2, 3])
    folder = tmp_path / "step-00000003"
    (data,) = folder.glob("*.data*")
    raw = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(raw[:-1])
    elif damage == "flipped bit":
        raw[5] ^= 4
        data.write_bytes(raw)
    elif damage == "missing data":
        data.unlink()
    elif damage == "commit is not JSON":
        (folder / "commit.json").write_text("{")
    else:
        (folder / "commit.json").unlink()
    with caplog.at_level(logging.WARNING):
        checkpoint, state = restored(tmp_path)
    assert checkpoint.step == 2 and state["optimizer/iteration"].numpy() == 2
    assert str(folder) in caplog.text


def test_a_broken_one_is_written_anew_and_does_not_push_sound_ones_out(tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    (data,) = (tmp_path / "step-00000002").glob("*.data*")
    data.write_bytes(b"")
    state = variables(4)
    keeper = Checkpoints(str(tmp_path), state, keep_last=2)
    assert keeper.restore_newest().step == 1
    keeper.save(3, {})
    keeper.wait()
    assert checkpoint_files.steps(str(tmp_path)) == [1, 2, 3]
    keeper.save(2, {})
    keeper.wait()
    assert restored(tmp_path)[0].step == 3
    assert checkpoint_files.steps(str(tmp_path)) == [2, 3]


def test_all_broken_is_refused_and_not_trained_over(tmp_path):
    saved(tmp_path, [1])
    (tmp_path / "step-00000001" / "commit.json").write_text("")
    with pytest.raises(UserError, match="none of the 1 checkpoint"):
        restored(tmp_path)


def test_the_last_ones_and_every_mth_stay(tmp_path):
    saved(tmp_path, range(10, 130, 10), keep_last=2, keep_every=50)
    assert checkpoint_files.steps(str(tmp_path)) == [50, 100, 110, 120]
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:08d}" for step in (50, 100, 110, 120)]


def test_an_error_of_the_writing_thread_surfaces(tmp_path):
    (tmp_path / "file").write_text("")
    keeper = Checkpoints(str(tmp_path / "file" / "c"), variables(0))
    keeper.save(1, {})
    with pytest.raises(tf.errors.OpError):
        keeper.wait()
    keeper.wait()  # once


def test_a_kill_at_any_point_of_the_writing_leaves_the_one_before(tmp_path, monkeypatch):
    """The commit is the last thing written: whatever is cut off before it, the checkpoint does not exist."""
    saved(tmp_path, [1])

    def killed(*_):
        raise KeyboardInterrupt

    for point in ("measure", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_files, point, killed)
            keeper = Checkpoints(str(tmp_path), variables(0))
            keeper.save(2, {})
            with pytest.raises(KeyboardInterrupt):
                keeper.wait()
        assert (tmp_path / "step-00000002").is_dir()
        assert restored(tmp_path)[0].step == 1
    saved(tmp_path, [2])
    assert restored(tmp_path)[0].step == 2


def test_the_commit_lists_every_file_with_size_and_checksum(tmp_path):
    saved(tmp_path, [1])
    folder = tmp_path / "step-00000001"
    files = json.loads((folder / "commit.json").read_text())["files"]
    assert set(files) == set(os.listdir(folder)) - {"commit.json"}
    assert all(entry["bytes"] == (folder / name).stat().st_size for name, entry in files.items())


def test_other_variables_are_refused_by_name(tmp_path):
    saved(tmp_path, [1])
    other = variables(1, shape=(3, 6)) | {"optimizer/new": tf.Variable(0.0)}
    with pytest.raises(
        UserError, match=r"kernel.x has shape \[3, 5\] there and \[3, 6\] here.*optimizer/new is missing"
    ):
        Checkpoints(str(tmp_path), other).restore_newest()


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    saved(tmp_path / "c", [1], writes=False)
    assert not (tmp_path / "c").exists()


class Model:
    """The parts of a Keras model that weights-only restoring uses."""

    def __init__(self, seed):
        import keras

        self.variables = [keras.Variable(np.full([4], float(seed), "float32"), name="kernel")]

    def state(self):
        """An optimizer's, for a state that holds more than the weights."""
        return {variable.path: variable.value for variable in self.variables}


def test_weights_alone_come_back_without_the_optimizer(tmp_path):
    model, slots = Model(3), Model(9)
    keeper = Checkpoints(str(tmp_path), checkpoints.state_of(model, slots))
    keeper.save(5, {"seed": 1})
    keeper.wait()
    other = Model(0)
    assert checkpoints.restore_weights(str(tmp_path), other).step == 5
    assert other.variables[0].numpy().tolist() == [3.0] * 4
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.restore_weights(str(tmp_path / "none"), other)
