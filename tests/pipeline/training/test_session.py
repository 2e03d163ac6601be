"""A session refuses a plan for other devices before it builds a model."""

import types

import pytest

from pipeline.errors import UserError
from pipeline.training.session import Session


def session(planned, found):
    others = dict.fromkeys(("settings", "model_config", "optimizer_config", "manifest", "data", "directory"))
    plan = types.SimpleNamespace(replicas=planned)
    return Session(plan=plan, connection=types.SimpleNamespace(replicas=found, kind="tpu"), **others)


def test_a_batch_for_other_devices_than_there_are_is_refused():
    """Such as four device files of GPUs beside a TensorFlow that cannot use them."""
    assert session(8, 8).plan.replicas == 8
    with pytest.raises(UserError, match=r"planned for 8 replicas, and TensorFlow has 4 \(tpu\)"):
        session(8, 4)
