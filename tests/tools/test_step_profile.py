"""The profile's arithmetic: time is shared among what runs, and parts add up."""

import pytest

from pipeline.preflight import hlo
from tools import step_profile

HLO = """HloModule step

ENTRY %main (a: f32[8,4]) -> f32[8,256] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[256,4]{1,0} parameter(1)
  %logits = f32[8,256]{1,0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="while/MatMul"}
  %kernel = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="MatMul_1"}
  %scores = f32[2,8,4]{2,1,0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="einsum"}
  %update = f32[256,4]{1,0} fusion(%b), calls=%c, metadata={op_name="cond"}
  %reduce-window.3 = f32[4]{0} fusion(%a), calls=%c, metadata={op_name="Sum"}
  ROOT %power = f32[8,256]{1,0} fusion(%logits), calls=%c, metadata={op_name="while/Exp"}
}
"""


def test_what_runs_together_shares_the_time():
    second = 10**12
    shares = step_profile.shared_time([(0, 4 * second, "a"), (second, 3 * second, "b"), (6 * second, 7 * second, "a")])
    assert shares == {"a": pytest.approx(1 + 1 + 1 + 1), "b": pytest.approx(1)}


def test_instructions_belong_to_their_parts():
    (main,) = hlo.parse(HLO).computations.values()
    parts = {name: step_profile.part_of(i, 256) for name, i in main.instructions.items() if name not in ("a", "b")}
    assert parts == {
        "logits": step_profile.TABLE,
        "kernel": step_profile.BLOCKS,
        "scores": step_profile.ATTENTION,
        "update": step_profile.UPDATE,
        "reduce-window.3": step_profile.SUMS,
        "power": step_profile.SOFTMAX,
    }
