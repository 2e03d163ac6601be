"""The schedule: bundles of a dump count as often as they run, equal code is found again, parts and waits add up."""

import pathlib

import pytest

from pipeline.devices.tpu_specs import GENERATIONS
from pipeline.preflight import bundles, hlo, schedule, schedule_figures, twins
from pipeline.preflight.compiled import Kernel

# What libtpu dumps of a fusion over two blocks on a v5e, cut to eight bundles: its loop runs four times, of which two
# fill and drain it; within it another loop copies, three times.
BUNDLES = """= control target key start
LH: loop header
LB: loop body
= control target key end

     0   :  { %s39828_s12 = smov.u32 0 /* copy for cssa */ }
   0x1   :  { %s39832_s14 = smov.u32 0 /* copy for cssa */ } /* End region 3343 */
   0x2 LB: > { %s38_s15 = sadd.s32 1, %s39802_s13  ;;  %s39806_s14 = sphi %s39832_s14, %s9_s14 /* iteration index, \
stage = 0 */ }
   0x3   : > { %159 = vmatmul.mubr.bf16.vlgmr.msra.gmra.mxu0 %v60877_v11 }
   0x4 LB: >> { %v279_v0 = vld [vmem:[%s13505_s23] sm:$0xff] }
   0x5   : >> { %p272_p6 = scmp.ge.s32.totalorder %s471_s26, 3 /* loop exit test */ }
   0x6 PF: > { %s9_s14 = sadd.s32 1, %s39806_s14 /* iteration index, stage = 0 */ }
   0x7   : > { %p6_p10 = scmp.ge.s32.totalorder %s9_s14, 4 /* loop exit test */ /* iteration index, stage = 0 */ }
   0x8   :  { %8 = sbr.rel (!%p6_p10) target = $region3348 }
"""
UNITS = """== CAPACTIY:
MATMUL, MATPUSH, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU
    4     2     3     4     4     1     3     3     1     1     2
== UTILIZATION:
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 2
4 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 3 0 0 0 0
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 1
0 0 0 0 0 0 0 0 0 0 0
"""
WINDOW = 'backend_config={"window_config":{"iteration_bounds":["1","2","1"],"estimated_cycles":"40"}}'
PROGRAM = """ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %start = s32[] constant(0)
  %init = (s32[], f32[8,128]{1,0}) tuple(%start, %x)
  %while.1 = (s32[], f32[8,128]{1,0}) while(%init), condition=%c, body=%body, TRIPS
  %y = f32[8,128]{1,0} get-tuple-element(%while.1), index=1
  %fusion.2 = f32[8,128]{1,0} fusion(%y), kind=kLoop, calls=%two, metadata={op_name="block_00/mlp/MatMul"}, WINDOW
  %other = f32[8,128]{1,0} fusion(%fusion.2), kind=kLoop, calls=%three, metadata={op_name="loss/Exp"}, WINDOW
  ROOT %all-reduce.1 = f32[8,128]{1,0} all-reduce(%other), to_apply=%sum, metadata={op_name="XlaAllReduce"}
}
"""
BODY = """%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %value = f32[8,128]{1,0} get-tuple-element(%state), index=1
  %fusion.1 = f32[8,128]{1,0} fusion(%value), kind=kLoop, calls=%one, metadata={op_name="block_07/mlp/MatMul"}, WINDOW
  ROOT %next = (s32[], f32[8,128]{1,0}) tuple(%i, %fusion.1)
}
"""
INNER = """%{name} (a: f32[8,128]) -> f32[8,128] {{
  %a.{name} = f32[8,128]{{1,0}} parameter(0)
  ROOT %r.{name} = f32[8,128]{{1,0}} {opcode}(%a.{name}, %a.{name}), metadata={{op_name="{name}"}}
}}
"""


@pytest.fixture
def dump(tmp_path):
    """A dump of the fusions ``fusion.1`` and ``other``, and of the program that starts them."""
    for name in ("fusion.1", "other", "TLP"):
        for kind, text in ((bundles.BUNDLES, BUNDLES), (bundles.UTILIZATION, UNITS)):
            (tmp_path / f"1795746383370089220-{name}-72-{kind}").write_text(text)
        (tmp_path / f"1795746383370089220-{name}-71-schedule-analysis_final_bundles.txt").write_text("total: 9")
    return tmp_path


@pytest.fixture
def program():
    inner = [("one", "add"), ("two", "add"), ("three", "multiply"), ("sum", "add"), ("c", "compare")]
    text = "".join(INNER.format(name=name, opcode=opcode) for name, opcode in inner) + BODY + PROGRAM
    return hlo.parse(text.replace("WINDOW", WINDOW).replace("TRIPS", 'config={"known_trip_count":{"n":"12"}}'))


def test_bundles_count_as_often_as_they_run(dump):
    files = bundles.dumped(dump)
    assert set(files) == {"fusion.1", "other", "TLP"}
    known = bundles.read(files["other"], steps=2)
    assert (known.static, known.executed, known.uncounted_loops) == (9, 3 + 2 * (4 + 3 * 2), 0)
    assert bundles.read(files["other"]) == known  # the two that fill and drain it are seen without the steps, too
    assert bundles.read(files["other"], steps=1).executed == 3 + 10
    assert known.busy["matrix unit"] == pytest.approx(2 / 23)
    assert known.busy["vector loads"] == pytest.approx(6 / 23)
    assert known.busiest == "scalar ALU"  # 2 × ½ before the loop, 2 × (1 + ½ + ½) in it, 6 × ½ in the inner one
    assert known.busy["scalar ALU"] == pytest.approx((1 + 4 + 3) / 23)


def test_a_loop_of_unknown_length_is_said_to_count_once(dump):
    file = bundles.dumped(dump)["other"][0]
    file.write_text(BUNDLES.replace("%s471_s26, 3 /* loop exit test */", "%s471_s26, %s9 /* loop exit test */"))
    read = bundles.read(bundles.dumped(dump)["other"], steps=2)
    assert (read.executed, read.uncounted_loops) == (3 + 2 * 6, 1)


def test_equal_code_under_other_names_has_one_signature(program):
    signatures = twins.Signatures(program)
    where = {i.name: (c, i) for c in program.computations.values() for i in c.instructions.values()}
    assert signatures.of(*where["fusion.1"]) == signatures.of(*where["fusion.2"]) != signatures.of(*where["other"])


def test_kernels_are_counted_over_loops_and_under_one_dump(program, dump):
    found = {kernel.part: kernel for kernel in schedule.kernels(program, dump)}
    assert (found["mlp"].runs, found["mlp"].bundles, found["mlp"].cycles) == (12 + 1, 23, 40)
    assert (found["loss"].runs, found["loss"].bundles) == (1, 23)
    assert (found["collectives"].bundles, found["collectives"].busy) == (0, {})
    assert found["control"].runs == 1
    assert found["mlp"].hbm_bytes == 2 * 4 * 8 * 128


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('%f = f32[4,12,8,8] fusion(%p), metadata={op_name="block_03/attention/einsum_5/Einsum"}', "attention"),
        ('%f = f32[4,12,8] fusion(%q), metadata={op_name="gradient/block_03/attention_gradient/Sum_1"}', "attention"),
        ('%f = f32[64] fusion(%p), metadata={op_name="gradient/block_03/attention_gradient/Sum_2"}', "norms"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="shared_block/mlp/Mean_1"}', "norms"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="gradient/block_11/mlp_gradient/MatMul"}', "mlp"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="gradient_tape/final_norm/sub/Sum"}', "norms"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="loss/while/MatMul_2"}', "loss"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="cond/update/block_00/mlp_output_kernel/Sum_3"}', "update"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="Sum_25"}', "update"),
        ('%scatter_fusion.1 = f32[4,8] fusion(%p), metadata={op_name="gradient/AddN_3/inputs_1"}', "embedding"),
        ('%f = f32[4,8] fusion(%p), metadata={op_name="embedding/GatherV2"}', "embedding"),
        ('%r = f32[4,8] reduce-scatter(%p), metadata={op_name="XlaAllReduce"}', "collectives"),
        ("%copy.3 = f32[4,8] copy(%p)", "copies"),
        ('%copy.3 = f32[4,8] copy(%p), metadata={op_name="XLA_Args"}', "copies"),
        (
            '%k.1 = f32[4,8] custom-call(%p), metadata={op_name="block_00/attention/jit(forward)/pallas_call"}',
            "attention",
        ),
    ],
)
def test_each_part_is_known_by_its_scope(line, part):
    operands = "  %p = f32[4,8] parameter(0)\n  %q = f32[4,12,8,8] copy(%p)\n"
    text = f"ENTRY %m (p: f32[4,8]) -> f32[4,8] {{\n{operands}  {line}\n}}"
    program = hlo.parse(text)
    computation = program.computations["m"]
    assert schedule.part_of(program, computation, list(computation.instructions.values())[-1]) == part


def test_seconds_waits_and_units_by_part():
    specs = GENERATIONS["v5e"]
    second = specs.clock_ghz * 1e9  # bundles
    product = {"cycles": 0.8 * second, "flops": 0.7 * second * specs.flops_per_cycle}
    kernels = (
        Kernel(name="a", part="mlp", op="", runs=2, bundles=second, busy={"matrix unit": 0.9}, **product),
        Kernel(name="b", part="mlp", op="", runs=1, bundles=second, busy={"vector ALU": 0.5, "matrix unit": 0.1}),
        Kernel(name="c", part="update", op="", runs=1, bundles=second, hbm_bytes=3e9 * specs.hbm_gbps, cycles=1e3),
    )
    found = schedule_figures.figures(kernels, specs)
    assert found.seconds["mlp"] == pytest.approx(3) and found.total == pytest.approx(4)
    assert found.waits["update"] == pytest.approx(2) and sum(found.waits.values()) == pytest.approx(2)
    assert found.units["mlp"] == ("matrix unit", pytest.approx(1.9 / 3))
    slower = (Kernel(name="d", part="loss", op="", runs=3, bundles=1, flops=second * specs.flops_per_cycle),)
    assert schedule_figures.figures(slower, specs).total == pytest.approx(3)  # products wait for the matrix unit
    assert found.compared == pytest.approx(1 / 0.8)  # of products alone
    assert found.compared_range == pytest.approx((1 / 0.8, 1 / 0.8))
    answer = found.as_json()
    assert answer["schedule_seconds"] == pytest.approx(sum(answer["schedule"].values()))
    text = schedule_figures.report(found, specs)
    assert "bundles           4000.0 ms" in text and "matrix unit 63 % used" in text and "1.25 (1.25 to 1.25)" in text


def test_what_was_dumped_of_no_kernel_is_nothing(tmp_path: pathlib.Path):
    assert bundles.dumped(tmp_path) == {}
