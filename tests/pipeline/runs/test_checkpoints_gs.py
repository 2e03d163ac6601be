"""Checkpoints on gs:// keep the promises that they keep on a disk, through the faults of a network."""

import json

import numpy as np
import pytest

from tests.helpers.hostile import NAMES

RUN = "gs://corpus/run/checkpoints"
SHAPE = (300, 1000)  # 1.2 MB, so that an upload takes more than one packet


def state(seed):
    import tensorflow as tf

    kernel = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    return {"weights/kernel": tf.Variable(kernel), "optimizer/iteration": tf.Variable(seed)}


def save(steps, run=RUN, **options):
    """Saves one checkpoint a step, each of other values."""
    from pipeline.runs.checkpoints import Checkpoints

    variables = state(0)
    keeper = Checkpoints(run, variables, **options)
    for step in steps:
        for name, value in state(step).items():
            variables[name].assign(value)
        keeper.save(step, {"seed": step + 1})
    keeper.wait()


def restore(run=RUN):
    """Returns the step of the newest sound checkpoint, its metadata, and whether its values are those of the step."""
    from pipeline.runs.checkpoints import Checkpoints

    variables = state(999)
    checkpoint = Checkpoints(run, variables).restore_newest()
    if checkpoint is None:
        return None
    expected = state(checkpoint.step)
    same = all(np.array_equal(variables[name].numpy(), expected[name].numpy()) for name in expected)
    return checkpoint.step, checkpoint.metadata, same


def save_and_restore_with_tensorflow_alone():
    import tensorflow as tf

    path = tf.train.Checkpoint(variables=state(5)).save("gs://corpus/plain/ckpt")
    other = state(6)
    tf.train.Checkpoint(variables=other).restore(path).assert_consumed()
    return all(np.array_equal(other[name].numpy(), value.numpy()) for name, value in state(5).items())


def steps_committed(gcs):
    """Steps with a commit, as any other client sees them."""
    return sorted(int(name.split("/")[2][5:]) for name in gcs.objects() if name.endswith("/commit.json"))


def test_tensorflow_saves_and_restores(gcs, on_gcs):
    assert on_gcs(save_and_restore_with_tensorflow_alone)
    assert {"plain/checkpoint", "plain/ckpt-1.index"} < set(gcs.objects())
    assert all(request.encrypted for request in gcs.requests)


def test_nothing_is_restored_where_nothing_was_saved(gcs, on_gcs):
    assert on_gcs(restore) is None


def test_what_was_saved_comes_back_and_old_ones_go(gcs, on_gcs):
    on_gcs(save, [1, 2, 3, 4, 5], keep_last=2, keep_every=3)
    assert on_gcs(restore) == (5, {"seed": 6}, True)
    assert steps_committed(gcs) == [3, 4, 5]
    assert not [name for name in gcs.objects() if "step-00000001" in name or "temp" in name]


@pytest.mark.parametrize("name", NAMES)
def test_folders_may_have_any_name(gcs, on_gcs, name):
    """To the last character, and for both clients."""
    run = f"gs://corpus/{name}/checkpoints"
    on_gcs(save, [1, 2], run, keep_last=1)
    assert on_gcs(restore, run) == (2, {"seed": 3}, True)
    files = [path for path in gcs.objects() if not path.endswith("/")]  # without the markers of folders
    assert len(files) == 3 and {path.split("/step-")[0] for path in files} == {f"{name}/checkpoints"}


def test_the_commit_is_the_last_object_of_a_checkpoint(gcs, on_gcs):
    on_gcs(save, [7])
    kinds = [request.query["uploadType"] for request in gcs.seen("POST", "^/upload/")]
    assert len(kinds) > 2 and kinds.index("multipart") == len(kinds) - 1, "of TensorFlow's client no upload is such"
    files = json.loads(gcs.objects()["run/checkpoints/step-00000007/commit.json"])["files"]
    sizes = {
        name.rpartition("/")[2]: len(data) for name, data in gcs.objects().items() if "step-00000007/state" in name
    }
    assert {name: described["bytes"] for name, described in files.items()} == sizes


@pytest.mark.parametrize(
    ("kind", "verb", "path", "value"),
    [
        ("status", "POST", "^/upload/.*state", 503),
        ("status", "PUT", "state", 503),
        ("cut_upload", "PUT", "state", 0),
        ("no_reply", "PUT", "state", 0),
        ("cut_reply", "POST", "multipart", 0),
        ("status", "GET", "^/corpus/", 503),
        ("cut_reply", "GET", "^/corpus/.*data", 0),
        ("status", "DELETE", "", 503),
    ],
)
def test_a_fault_is_survived(gcs, on_gcs, kind, verb, path, value):
    fault = gcs.inject(kind, verb=verb, path=path, value=value)
    on_gcs(save, [1, 2], keep_last=1)
    assert on_gcs(restore) == (2, {"seed": 3}, True)
    assert fault.hits == 1 and steps_committed(gcs) == [2]


@pytest.mark.parametrize("damage", ["no commit", "half a commit", "missing data", "other bytes"])
def test_a_broken_newest_one_is_passed_over(gcs, on_gcs, damage):
    on_gcs(save, [1, 2])
    folder = "run/checkpoints/step-00000002"
    data = next(name for name in gcs.objects() if name.startswith(f"{folder}/state.data"))
    if damage == "no commit":
        gcs.delete(f"{folder}/commit.json")
    elif damage == "half a commit":
        gcs.put(f"{folder}/commit.json", gcs.objects()[f"{folder}/commit.json"][:40])
    elif damage == "missing data":
        gcs.delete(data)
    else:
        gcs.put(data, gcs.objects()[data][:-1] + b"x")
    assert on_gcs(restore) == (1, {"seed": 2}, True)


def test_an_upload_that_fails_for_good_leaves_the_one_before(gcs, on_gcs):
    on_gcs(save, [1])
    gcs.inject("status", verb="PUT", path="step-00000002/state", times=10**6, value=403)
    with pytest.raises(Exception, match="403"):
        on_gcs(save, [2])
    gcs.faults.clear()
    assert on_gcs(restore) == (1, {"seed": 2}, True)
    on_gcs(save, [2])  # over what was left of the first try
    assert on_gcs(restore) == (2, {"seed": 3}, True)
