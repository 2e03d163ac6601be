"""Costs read off a compiled program's text: loops count as often as they run, slices cost what they move."""

import pytest

from pipeline.preflight import hlo, hlo_costs

# What the TPU compiler prints, cut to what matters: a loop of 7 trips around one matrix multiplication, a batched
# multiplication outside it, a slice of a stack inside a fusion, and one array that lives on the core (S(1)).
TEXT = """HloModule step, is_scheduled=true

%fused_product (a: bf16[128,256], b: bf16[256,512]) -> f32[128,512] {
  %a = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = f32[128,512]{1,0:T(8,128)} convolution(%a, %b), dim_labels=bf_io->bf
}

%fused_slice (stack: f32[10,128,512], i: s32[]) -> f32[128,512] {
  %stack = f32[10,128,512]{2,1,0:T(8,128)} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[1,128,512]{2,1,0:T(8,128)} dynamic-slice(%stack, %i, %zero, %zero)
  ROOT %bitcast.1 = f32[128,512]{1,0:T(8,128)} bitcast(%dynamic-slice.1)
}

%condition (state: (s32[], bf16[128,256], bf16[256,512])) -> pred[] {
  %state.1 = (s32[], bf16[128,256]{1,0}, bf16[256,512]{1,0}) parameter(0)
  %counter.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(7)
  ROOT %compare = pred[] compare(%counter.1, %limit), direction=LT
}

%body (state: (s32[], bf16[128,256], bf16[256,512])) -> (s32[], bf16[128,256], bf16[256,512]) {
  %state.2 = (s32[], bf16[128,256]{1,0}, bf16[256,512]{1,0}) parameter(0)
  %counter.2 = s32[] get-tuple-element(%state.2), index=0
  %left = bf16[128,256]{1,0} get-tuple-element(%state.2), index=1
  %right = bf16[256,512]{1,0} get-tuple-element(%state.2), index=2
  %product = f32[128,512]{1,0:S(1)} fusion(%left, %right), calls=%fused_product, config={"estimated_cycles":"1000"}
  %one = s32[] constant(1)
  %next = s32[] add(%counter.2, %one)
  ROOT %tuple.2 = (s32[], bf16[128,256]{1,0}, bf16[256,512]{1,0}) tuple(%next, %left, %right)
}

ENTRY %main (x: bf16[128,256], y: bf16[256,512], z: f32[10,128,512], q: bf16[4,12,64,256]) -> f32[128,512] {
  %x = bf16[128,256]{1,0} parameter(0)
  %y = bf16[256,512]{1,0} parameter(1)
  %z = f32[10,128,512]{2,1,0} parameter(2)
  %q = bf16[4,12,64,256]{3,2,1,0} parameter(3)
  %start = s32[] constant(0)
  %init = (s32[], bf16[128,256]{1,0}, bf16[256,512]{1,0}) tuple(%start, %x, %y)
  %while.1 = (s32[], bf16[128,256]{1,0}, bf16[256,512]{1,0}) while(%init), condition=%condition, body=%body
  %scores = f32[4,12,256,256]{3,2,1,0} convolution(%q, %q), WINDOW, config={"estimated_cycles":"500"}
  ROOT %fusion.9 = f32[128,512]{1,0} fusion(%z, %start), calls=%fused_slice, config={"estimated_cycles":"10"}
}
""".replace("WINDOW", "window={size=4x12 stride=3x11 lhs_dilate=4x12}, dim_labels=01fb_01io->01bf")
PRODUCT = 2 * 128 * 256 * 512
SCORES = 2 * 4 * 12 * 256 * 256 * 64


@pytest.fixture
def parsed():
    return hlo.parse(TEXT)


def test_a_loop_counts_as_often_as_it_runs(parsed):
    assert hlo_costs.total(parsed).matmul_flops == 7 * PRODUCT + SCORES
    assert hlo_costs.total(parsed).cycles == 7 * 1000 + 500 + 10


def test_counted_once_as_the_compiler_does(parsed):
    assert hlo_costs.total(parsed, unroll=False).matmul_flops == PRODUCT + SCORES
    assert hlo_costs.total(parsed, unroll=False).cycles == 1000 + 500 + 10


def test_batched_multiplications_are_told_apart(parsed):
    assert hlo_costs.total(parsed).batched_flops == SCORES


def test_a_kernel_s_flops_are_its_author_s():
    """Those of attention, for which the compiler has no cycles; a call of another kind has none."""
    stated = 'backend_config={"custom_call_config":{"cost_estimate":{"flops":"8053063680","transcendentals":"3145"}}}'
    text = """ENTRY %main (x: bf16[48,64,1024]) -> bf16[48,64,1024] {
  %x = bf16[48,64,1024]{2,1,0} parameter(0)
  %buffer = bf16[48,64,1024]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %o = bf16[48,64,1024]{2,1,0} custom-call(%x, %buffer), custom_call_target="tpu_custom_call", STATED
}
""".replace("STATED", stated)
    totals = hlo_costs.total(hlo.parse(text))
    assert totals.matmul_flops == totals.batched_flops == totals.kernel_flops == 8_053_063_680
    assert totals.cycles == 0


def test_traffic_counts_hbm_only_and_slices_by_their_size(parsed):
    inputs = 2 * (128 * 256 + 256 * 512)  # the product stays on the core
    scores = 2 * 2 * 4 * 12 * 64 * 256 + 4 * 4 * 12 * 256 * 256
    piece = 4 * 128 * 512  # one of the stack's ten layers, read and written
    counter = 4 + 4 + 4
    assert hlo_costs.total(parsed).hbm_bytes == pytest.approx(7 * (inputs + counter) + scores + 2 * piece + 4, abs=64)


@pytest.mark.parametrize(
    ("window", "labels", "data", "kernel", "result"),
    [
        # Rows of four sequences: the sequences are an axis of the window, of which padding leaves one place each.
        ("size=4 pad=3_3 rhs_reversal=1", "bf0_0io->0fb", "1600,1600,1", "4,1600,1024", "4,1024,1600"),
        ("size=4", "0fb_0io->fb0", "4,1024,1600", "4,1024,6400", "6400,1600,1"),
        ("size=1", "0bf_oi0->0bf", "4,1024,1600", "6400,1600,1", "4,1024,6400"),
    ],
)
def test_a_window_counts_where_it_meets_data(window, labels, data, kernel, result):
    shapes = {"%x": data, "%y": kernel}
    lines = [f"  {name} = bf16[{shape}]{{2,1,0}} parameter({i})" for i, (name, shape) in enumerate(shapes.items())]
    product = f"ROOT %p = f32[{result}]{{2,1,0}} convolution(%x, %y), window={{{window}}}, dim_labels={labels}"
    text = "ENTRY %main (x: bf16[1], y: bf16[1]) -> f32[1] {\n" + "\n".join(lines) + f"\n  {product}\n}}\n"
    width = 6400 if "6400" in window + data + kernel + result else 1600
    assert hlo_costs.total(hlo.parse(text)).matmul_flops == 2 * 4096 * 1600 * width


def test_what_is_brought_to_the_core_beforehand_counts_once():
    """A slice from HBM (its whole stands first in the result), and a copy back."""
    text = """ENTRY %main (x: f32[1024,768]) -> f32[1024,768] {
  %x = f32[1024,768]{1,0} parameter(0)
  %slice-start.1 = ((f32[1024,768]{1,0}), f32[256,768]{1,0:S(1)}, s32[]{:S(2)}) MOVED
  %slice-done.1 = f32[256,768]{1,0:S(1)} slice-done(%slice-start.1)
  %sum = f32[256,768]{1,0:S(1)} add(%slice-done.1, %slice-done.1)
  %copy-start.1 = (f32[256,768]{1,0}, f32[256,768]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%sum)
  ROOT %copy-done.1 = f32[256,768]{1,0} copy-done(%copy-start.1)
}
""".replace("MOVED", "slice-start(%x), slice={[0:256], [0:768]}")
    parsed = hlo.parse(text)
    assert hlo_costs.prefetches(parsed) and not hlo_costs.prefetches(hlo.parse(TEXT))
    assert hlo_costs.total(parsed).hbm_bytes == 2 * 4 * 256 * 768


def test_a_trip_count_that_the_compiler_states_is_taken():
    stated = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}')
    assert hlo_costs.total(hlo.parse(stated)).matmul_flops == 11 * PRODUCT + SCORES


@pytest.mark.parametrize(
    "change", [("direction=LT", "direction=NE"), ("%start = s32[] constant(0)", "%start = s32[] constant(3)")]
)
def test_a_loop_that_cannot_be_counted_is_reported(change):
    totals = hlo_costs.total(hlo.parse(TEXT.replace(*change)))
    assert totals.unknown_loops == 1
    assert totals.matmul_flops == PRODUCT + SCORES


def test_costliest_and_largest_name_their_ops(parsed):
    top = hlo_costs.costliest(parsed, 1)
    assert top[0][1] == "scores"
    size, shape, op = hlo_costs.largest(parsed, 1)[0]
    assert (size, shape, op) == (4 * 4 * 12 * 256 * 256, "f32[4,12,256,256]", "scores")
