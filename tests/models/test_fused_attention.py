"""The fused attention kernels in Pallas's interpreter, called from TensorFlow on the CPU, against plain attention.

The blocks and squares of the kernels are made small, so that few tokens make a grid of many squares.
"""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("jax", reason="requirements-preflight.txt is not installed")

import tensorflow as tf

import models
from models import attention, fused_attention
from pipeline.devices import own_process
from tests.helpers import steps

# dtype, context, square, block: one square, several, and those of a TPU
CUTS = [("float32", 128, 128, 64), ("float32", 192, 64, 32), ("bfloat16", 192, 64, 32), ("bfloat16", 512, 256, 256)]
MODEL_CUT = (32, 16)  # square, block
MODEL_SHAPE = (4, 16, 64, "float32")  # of two sequences of the small models
STEP_CUT, STEP_SHAPE = (4, 2), (2 * steps.GLOBAL_BATCH, 16, steps.CONTEXT, "float32")
TOLERANCE = {"float32": 2e-6, "bfloat16": 1.6e-2}  # of the largest value; bfloat16 has 8 bits


def export(asked):
    from models import attention_kernels

    exported = {}
    for square, block, shape in asked:
        attention_kernels.SQUARES, attention_kernels.BLOCK = (square,), block
        exported[square, block, shape] = attention_kernels.export_kernels(*shape, platform="cpu")
    return exported


@pytest.fixture(scope="module")
def interpreted():
    """interpreted(square, block): attention by the kernels with squares and blocks of these lengths, on the CPU."""
    asked = [(square, block, (2, 80, context, dtype)) for dtype, context, square, block in CUTS]
    exported = own_process.call("the export", export, [*asked, (*MODEL_CUT, MODEL_SHAPE), (*STEP_CUT, STEP_SHAPE)])

    def cut(square, block):
        return fused_attention.fused(lambda *shape: exported[square, block, shape], platform="CPU")

    return cut


def arrays(dtype, *shape, count=4):
    generator = np.random.default_rng(0)
    return [tf.cast(generator.normal(size=shape), dtype) for _ in range(count)]


@pytest.mark.parametrize(("dtype", "context", "square", "block"), CUTS)
def test_kernels_compute_plain_attention(dtype, context, square, block, interpreted, tools):
    q, k, v, do = arrays(dtype, 2, 1, 80, context)
    fused = interpreted(square, block)

    @tools.compiled
    def both(q, k, v, do):
        results = []
        for path in (fused, attention.PLAIN):
            o, log = path.forward(q, k, v)
            results.append((o, log, *path.gradient(do, q, k, v, o, log)))
        return results

    for name, got, expected in zip(("o", "log", "dq", "dk", "dv"), *both(q, k, v, do), strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        error = tf.reduce_max(tf.abs(tf.cast(got - expected, tf.float32)))
        largest = tf.reduce_max(tf.abs(tf.cast(expected, tf.float32)))
        assert error <= TOLERANCE[dtype] * largest, f"{name}: {error} of {largest}"


@pytest.mark.parametrize(("name", "remat"), [("gpt2", "none"), ("algpt2", "full")])
def test_a_model_s_loss_and_gradients(name, remat, interpreted, tools):
    """Through a block's gradient and the shared block's loops."""
    config = dataclasses.replace(tools.SMALL[name], context=64, remat=remat)
    tokens, results = tools.random_tokens(2, 65), []
    for path in (interpreted(*MODEL_CUT), None):
        model = models.build(config, attention=path)
        tools.shake(model)
        results.append(tools.compiled(functools.partial(tools.loss_and_gradients, model))(tokens))
    (fused_loss, fused), (loss, plain) = results
    assert float(fused_loss) == pytest.approx(float(loss), rel=1e-6)
    for got, expected in zip(fused, plain, strict=True):
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_run_goes_on_with_the_other_path(interpreted, tmp_path):
    """From a checkpoint of the fused kernels, plain attention makes the steps that it would have made alone."""
    train = functools.partial(steps.train, steps.GPT2, steps.ADAFACTOR, ["/cpu:0"], accumulation=1)
    whole, *_ = train()
    begun, *_ = train(folder=tmp_path, attention=interpreted(*STEP_CUT))
    gone_on, *_ = train(folder=tmp_path, start=steps.SAVED)
    for got, expected in zip((*begun[: steps.SAVED], *gone_on), whole, strict=True):
        assert got["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_the_interpreted_kernels_can_fail():
    """The bounds above notice a mask that is one key off."""
    q, k, v, _ = arrays("float32", 1, 1, 64, 128)
    o, _ = attention.causal_attention(q, k, v)
    shifted, _ = attention.causal_attention(q, tf.roll(k, 1, -1), tf.roll(v, 1, -1))
    assert float(tf.reduce_max(tf.abs(o - shifted))) > 100 * TOLERANCE["float32"] * float(tf.reduce_max(tf.abs(o)))
