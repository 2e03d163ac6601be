"""The JAX step that ours is compared with: the same mathematics, its masked squares left out, the page of both."""

import numpy as np
import pytest
import tensorflow as tf

import models
from models.config import GPT2Config
from models.weight_specs import weight_specs
from pipeline.devices import own_process, slices
from pipeline.errors import WorkFailedError
from pipeline.preflight.compiled import Kernel
from pipeline.training.step import model_nll
from tests.helpers import jax_loss
from tools.benchmarks.jax_step import splash_bundles
from tools.benchmarks.jax_step.program import compile_step
from tools.benchmarks.jax_step.splash_bundles import BACKWARD, FORWARD, Grid

# What libtpu dumps of a splash kernel on a v5e, cut to the conditions: a step as a whole, and three within it.
BUNDLES = """LB: loop body
     0   :  { %s10743_s30 = smov.u32 0 /* copy for cssa */ }
   0x1 LB: > { %s18538_s11 = sadd.s32 1, %s10651_s30 /* iteration index, stage = 1 */ }
   0x2   : > { %522 = sbr.rel (%p519_p11) target = $region36 }
   0x3   : > { %919 = sbr.rel (%p8652_p6) target = $region40 }
   0x4   : > { %1048 = vst [vmem:[%s10881_s13]] %v10656_v1 } /* End region 39 */
   0x5 PF: > { %s1127_s14 = sld [smem:[#allocation4]] } /* Start/End empty region 40 :: Start region 41 */
   0x6   : > { %1143 = sbr.rel (%p8657_p8) target = $region44 }
   0x7   : > { %v9102_v2 = vld [vmem:[%s10873_s30]] }
   0x8   : > { %1200 = vmatmul.mubr.bf16.vlgmr.msra.gmra.mxu0 %v9102_v2 }
   0x9   : > { %6380 = vst.msk [vmem:[%s10887_s5]] %v6316_v14 } /* End region 43 */
   0xa PF: > { %p9043_p9 = scmp.ne.s32.totalorder %s10619_s1, 1 } /* Start/End empty region 44 :: Start region 45 */
   0xb   : > { %6384 = sbr.rel (%p9043_p9) target = $region48 }
   0xc   :  {} /* End region 46 */
   0xd   : > { %8178 = vst.msk [vmem:[%s10887_s5]] %v10657_v28 } /* End region 47 */
   0xe PF: > { %s8179_s18 = sand.u32 1, %s10611_s0 } /* Start/End empty region 48 */
   0xf PF: > { %s20163_s5 = sld [smem:[#allocation19_spill]] } /* Start/End empty region 36 */
  0x10   : > { %p37_p5 = scmp.ge.s32.totalorder %s40_s30, 10 /* loop exit test */ }
"""
TINY = GPT2Config(layers=2, heads=2, width=128, context=256, vocabulary_size=300)


@pytest.fixture(scope="module")
def ours():
    """Weights that are all random, tokens, and our model's loss and gradients by the weight's name."""
    random = np.random.default_rng(0)
    model = models.build(TINY)
    names = list(weight_specs(TINY))
    for variable in model.trainable_variables:
        noise = random.normal(0, 0.05, variable.shape)
        variable.assign(variable.numpy() + noise * (variable.numpy() != 0 if variable is model.table else 1))
    tokens = random.integers(0, TINY.known_vocabulary, (2, TINY.context + 1)).astype(np.int32)
    with tf.GradientTape() as tape:
        nll, weight = model_nll(model, {"tokens": tf.constant(tokens), "index": tf.range(2, dtype=tf.int64)})
        loss = nll / weight
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    arrays = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
    weights = dict(zip(names, [variable.numpy() for variable in model.trainable_variables], strict=True))
    return weights, tokens, float(loss), dict(zip(names, arrays, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("square", [None, 128], ids=["plain", "splash"])
def test_its_loss_and_gradients_are_ours(ours, square):
    pytest.importorskip("optax", reason="requirements-dev.txt is not installed")
    weights, tokens, loss, gradients = ours
    found, theirs = own_process.call("the JAX step", jax_loss.loss_and_gradients, weights, tokens, TINY, square)
    assert found == pytest.approx(loss, rel=1e-6)
    assert theirs.keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(theirs[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)


def test_masked_squares_are_left_out(tmp_path):
    file = tmp_path / "bundles"
    file.write_text(BUNDLES)
    dumped, grid = {f"{FORWARD}_residuals.7": (file, file)}, Grid(context=1024, block_q=512, block_kv=512)
    kernel = Kernel(name=f"{FORWARD}_residuals.1", part="attention", op="", runs=12, bundles=2 * 4 * 100.0)
    assert splash_bundles.conditional(BUNDLES.splitlines()) == [1, 3, 2]
    counted = splash_bundles.counted(kernel, dumped, grid, heads=2, head_width=64)
    # Of four steps, sums begin at two and end at two, and one square is masked whole.
    assert counted.bundles == 2 * (4 * 100 - 2 * 1 - 1 * 3 - 2 * 2)
    assert counted.flops == 2 * 2 * 2 * 64 * 3 * 512**2 and counted.runs == 12
    whole = splash_bundles.counted(kernel, dumped, Grid(context=1024, block_q=1024, block_kv=1024), 2, 64)
    assert whole.bundles == kernel.bundles and whole.flops == counted.flops / 3 * 4
    other = Kernel(name="fusion.1", part="mlp", op="", runs=1, bundles=9)
    assert splash_bundles.counted(other, dumped, grid, heads=2, head_width=64) is other
    with pytest.raises(WorkFailedError, match="has 0 conditions of its own"):
        splash_bundles.counted(kernel, {}, grid, heads=2, head_width=64)


def test_squares_that_are_not_square():
    wide, high = Grid(context=1024, block_q=256, block_kv=512), Grid(context=1024, block_q=512, block_kv=256)
    assert wide.worked == 6 / 8 and high.worked == 6 / 8
    assert wide.conditions(FORWARD) == (1 / 2, 6 / 8, 1 / 2) and wide.conditions(BACKWARD) == (1 / 4, 6 / 8, 1 / 4)


@pytest.mark.slow
def test_the_compilers_dump_has_the_conditions():
    for needed in ("libtpu", "optax"):
        pytest.importorskip(needed, reason="requirements-dev.txt is not installed")
    small = GPT2Config(layers=1, heads=2, width=128, context=1024, vocabulary_size=1024)
    compiled, unmasked = own_process.call("the compiler", compile_step, slices.find("v5e-8"), "splash", small)
    assert compiled.fits and compiled.traffic_bytes > 0
    kernels = {splash_bundles.kind_of(kernel.name): kernel for kernel in compiled.kernels}
    for kernel in unmasked:
        if kind := splash_bundles.kind_of(kernel.name):
            # A quarter of the squares is masked, and more is left out at the beginning and the end of sums.
            assert 0.5 < kernel.bundles / kernels[kind].bundles < 0.8 and kernel.flops > 0
    assert {FORWARD, BACKWARD} <= kernels.keys()


def test_wrong_choices_are_refused(refused, tmp_path):
    command = "tools.benchmarks.jax_step"
    assert "--slice is missing; expected a slice such as v5e-16" in refused(command)
    assert "no slice is called 'v5f-8'" in refused(command, "--slice=v5f-8")
    assert "v3 takes no Mosaic kernels; try --attention=plain" in refused(command, "--slice=v3-8")
    assert "--layers=0: expected 1 or more" in refused(command, "--slice=v5e-8", "--layers=0")
    lost = f"--json={tmp_path / 'none' / 'figures.json'}"
    assert "its folder does not exist" in refused(command, "--slice=v5e-8", lost)


def test_figures_of_another_model_are_not_overwritten(refused, tmp_path):
    store = tmp_path / "figures.json"
    store.write_text('{"v5e-8": {"splash": {"model": "12 layers, 124,439,808 parameters"}}}')
    command = ("tools.benchmarks.jax_step", "--slice=v5e-8", f"--json={store}")
    assert "holds v5e-8, splash of 12 layers, 124,439,808 parameters, and this is 1 layers" in refused(
        *command, "--layers=1"
    )
    store.write_text("{")
    assert "is not JSON" in refused(*command)
