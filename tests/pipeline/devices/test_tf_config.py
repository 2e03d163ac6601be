"""TF_CONFIG: who trains together, and one sentence for what cannot be understood."""

import json

import pytest

from pipeline.devices import tf_config, tpu_target
from pipeline.errors import UserError


@pytest.fixture
def say(monkeypatch):
    def run(said):
        monkeypatch.setenv("TF_CONFIG", said if isinstance(said, str) else json.dumps(said))

    return run


@pytest.mark.parametrize("said", ["", "{}", {"cluster": {}}, {"cluster": {"worker": ["a:1"]}}])
def test_one_process_trains_alone(say, said):
    say(said)
    assert tf_config.here() is None
    assert tpu_target.check(tpu_target.resolve(None)) == tpu_target.Target(kind="here", replicas=1)


def test_workers_in_the_order_of_their_indices_after_the_chief(say):
    say({"cluster": {"worker": ["b:1", "c:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 1}})
    assert tf_config.here() == tf_config.Cluster(addresses=("a:1", "b:1", "c:1"), index=2)
    target = tpu_target.resolve(None)
    assert (target.kind, target.replicas, target.hosts, target.slice) == ("here", 3, 3, None)
    assert tpu_target.check(target, together=True) == target


def test_what_one_process_does_is_refused(say):
    say({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}})
    with pytest.raises(
        UserError, match="this command runs in one process, and TF_CONFIG names 2 workers; unset TF_CONFIG"
    ):
        tpu_target.check(tpu_target.resolve(None))
    with pytest.raises(UserError, match="--tpu=virtual-2 means devices of one process"):
        tpu_target.check(tpu_target.resolve("virtual-2"), together=True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("no JSON", "TF_CONFIG='no JSON' cannot be understood; expected {"),
        ("[]", "cannot be understood"),
        ({"cluster": {"worker": 3}}, "cannot be understood"),
        ({"cluster": {"worker": ["a", "b"]}}, "cannot be understood"),
        ({"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}, "names the job 'ps'; expected workers only"),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}, "the job 'evaluator'"),
        ({"cluster": {"worker": ["a:1", "b:1"]}}, "task None None is not one of its 2 workers"),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}, "worker 2 is not one of"),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "0"}}, "worker 0 is not one of"),
    ],
)
def test_what_cannot_be_understood_is_refused(say, said, message):
    say(said)
    with pytest.raises(UserError) as refused:
        tf_config.here()
    assert message in str(refused.value)
