"""Causal attention as two TPU kernels in Pallas: a forward and a backward pass that write no scores to memory.

A head's square of scores is cut into squares of up to 1,024 queries and keys. The grid visits those on and below the
diagonal. Each is cut again into blocks of 256 × 256, whose scores, probabilities and gradients live in registers and
the core's own memory. Softmax is computed online, as in FlashAttention (Dao et al. 2022); the backward pass recomputes
the probabilities from the logarithm of the denominator, and computes all three gradients in one pass. Scores are laid
out [keys, queries]: the softmax then reduces over sublanes, where a TPU needs no shuffles, and each query's maximum and
sum are in a row of lanes. As in attention.py, time is the last axis everywhere.

Needs JAX; imported only in a separate process (pipeline/devices/fused_kernels.py).

Shapes: N = sequences · heads, K head width, T context, L length of a square, S keys and Q queries of a block.
"""

import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

os.environ["JAX_PLATFORMS"] = "cpu"  # the kernels are only lowered here; a TPU belongs to TensorFlow

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from models.kernel_shapes import BLOCK, Kernels

jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")  # equal kernels are equal bytes everywhere

SQUARES = (1024, 768, 512, 256)  # the longest that divides the context
AHEAD = 3  # blocks whose scores are computed before the first's softmax, to keep the matrix unit busy
MASKED = -1e30
LOG2_E = math.log2(math.e)  # a TPU has powers of 2 only
float32 = jnp.float32
State: TypeAlias = tuple[Any, ...]  # of a block of queries: highest score [1, Q], sum of weights [1, Q], output [K, Q]


def forward(q: Any, k: Any, v: Any, *, interpret: bool = False) -> list[Any]:
    """Returns attention's output [N, K, T] and the logarithm of each softmax's denominator, float32 [N, 1, T].

    Args:
        q: queries [N, K, T].
        k: keys, likewise.
        v: values, likewise.
        interpret: run by Pallas's interpreter, on any device.
    """
    length = _length(q)
    count = q.shape[2] // length
    results = {"o": _like(q), "log": jax.ShapeDtypeStruct((q.shape[0], 1, q.shape[2]), float32)}
    rows = (1, 1, q.shape[1]) if count > 1 else ()  # what a State holds
    order = [(i, j) for i in range(count) for j in range(i + 1)]
    return _call(_forward, {"q": q, "k": k, "v": v}, results, [(row, length) for row in rows], order, interpret)


def backward(q: Any, k: Any, v: Any, o: Any, log: Any, do: Any, *, interpret: bool = False) -> list[Any]:
    """Returns the gradients of q, k and v, [N, K, T], from ``forward``'s inputs and outputs and the output's gradient.

    Args:
        q: queries [N, K, T].
        k: keys, likewise.
        v: values, likewise.
        o: ``forward``'s output, likewise.
        log: ``forward``'s logarithms [N, 1, T].
        do: gradient of ``o``, likewise.
        interpret: run by Pallas's interpreter, on any device.
    """
    length, (_, head_width, context) = _length(q), q.shape
    count = context // length
    results = {"dq": _like(q), "dk": _like(q), "dv": _like(q)}
    scratch = [(1, length), (head_width, context), (head_width, length), (head_width, length)]
    order = [(i, j) for j in range(count) for i in range(j, count)]
    arguments = {"q": q, "k": k, "v": v, "o": o, "log": log, "do": do}
    return _call(_backward, arguments, results, scratch, order, interpret)


def export_kernels(heads: int, head_width: int, context: int, dtype: str, *, platform: str = "tpu") -> Kernels:
    """Returns both kernels for one shape as serialized StableHLO; for the platform cpu, as Pallas interprets them.

    Args:
        heads: N, of all sequences together.
        head_width: K.
        context: T.
        dtype: of queries, keys and values.
        platform: "tpu" or "cpu".
    """
    array = jax.ShapeDtypeStruct((heads, head_width, context), jnp.dtype(dtype))
    log = jax.ShapeDtypeStruct((heads, 1, context), float32)

    def module(function: Callable, *arguments: Any) -> bytes:
        kernel = jax.jit(functools.partial(function, interpret=platform == "cpu"))
        return export.export(kernel, platforms=[platform])(*arguments).mlir_module_serialized

    return Kernels(module(forward, *[array] * 3), module(backward, *[array] * 4, log, array))


def _length(q: Any) -> int:
    return next(length for length in SQUARES if q.shape[2] % length == 0)


def _like(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _call(
    kernel: Callable,
    arguments: dict[str, Any],
    results: dict[str, Any],
    scratch: Sequence[tuple[int, int]],
    order: Sequence[tuple[int, int]],
    interpret: bool,
) -> list[Any]:
    """Calls a kernel for every head and every square (i, j) in this order: queries i, keys j."""
    heads, head_width, context = arguments["q"].shape
    squares = max(i for i, _ in order) + 1

    def part(name: str) -> pl.BlockSpec:
        shape = (1, 1 if name == "log" else head_width, context if name == "dq" else context // squares)
        if name == "dq":  # a sum over j: whole until the head is done
            return pl.BlockSpec(shape, lambda n, step, i_of, j_of: (n, 0, 0))
        if name in ("k", "v", "dk", "dv"):
            return pl.BlockSpec(shape, lambda n, step, i_of, j_of: (n, 0, j_of[step]))
        return pl.BlockSpec(shape, lambda n, step, i_of, j_of: (n, 0, i_of[step]))

    blocks = context // BLOCK * (context // BLOCK + 1) // 2  # of a head, on and below the diagonal
    scores = heads * blocks * BLOCK**2
    cost = pl.CostEstimate(
        flops=PRODUCTS[kernel] * 2 * head_width * scores,
        transcendentals=scores,
        bytes_accessed=sum(array.size * array.dtype.itemsize for array in (*arguments.values(), *results.values())),
    )
    return pl.pallas_call(
        functools.partial(kernel, squares=squares),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(heads, len(order)),
            in_specs=[part(name) for name in arguments],
            out_specs=[part(name) for name in results],
            scratch_shapes=[pltpu.VMEM(shape, float32) for shape in scratch],
        ),
        out_shape=list(results.values()),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
        name=f"attention{kernel.__name__}",
    )(*(jnp.asarray(np.array(axis, np.int32)) for axis in zip(*order, strict=True)), *arguments.values())


def _square(i_of: Any, j_of: Any, squares: int) -> tuple[Any, Any]:
    """Returns the numbers (i, j) of the square at this step of the grid; plain zeros if it is the only one."""
    if squares == 1:
        return 0, 0
    return i_of[pl.program_id(1)], j_of[pl.program_id(1)]


def _when(condition: Any, action: Callable[[], None]) -> None:
    """Runs ``action`` on a condition, known here or only on the device."""
    if condition is True:
        action()
    elif condition is not False:
        pl.when(condition)(action)


def _dot(a: Any, b: Any, *, transpose_b: bool = False) -> Any:
    return lax.dot_general(a, b, (((1,), (int(transpose_b),)), ((), ())), preferred_element_type=float32)


def _masked(scores_SQ: Any) -> Any:
    """Masks the first block of queries, on the diagonal; all later blocks see all of these keys."""
    first = scores_SQ[:, :BLOCK]
    key, query = (lax.broadcasted_iota(jnp.int32, first.shape, axis) for axis in (0, 1))
    first = jnp.where(key <= query, first, MASKED)
    return first if scores_SQ.shape == first.shape else jnp.concatenate([first, scores_SQ[:, BLOCK:]], 1)


def _forward(i_of: Any, j_of: Any, q: Any, k: Any, v: Any, o: Any, log: Any, *states: Any, squares: int) -> None:
    i, j = _square(i_of, j_of, squares)
    slices = [pl.ds(start, BLOCK) for start in range(0, q.shape[2], BLOCK)]

    def begin() -> None:
        for part, value in zip(states, (MASKED, 0.0, 0.0), strict=True):
            part[...] = jnp.full(part.shape, value, float32)

    def after(*, diagonal: bool) -> Iterable[State]:
        before = [tuple(part[:, at] for part in states) for at in slices]
        return _attend(q, k, v, before, diagonal=diagonal)

    def carry() -> None:
        for at, state in zip(slices, after(diagonal=False), strict=True):
            for part, value in zip(states, state, strict=True):
                part[:, at] = value

    def finish() -> None:
        for at, (highest, total, output) in zip(slices, after(diagonal=True), strict=True):
            o[0, :, at] = (output / total).astype(o.dtype)
            log[0, :, at] = highest * q.shape[1] ** -0.5 + jnp.log(total)

    if states:
        pl.when(j == 0)(begin)
        pl.when(j < i)(carry)
    _when(i == j, finish)


def _attend(q: Any, k: Any, v: Any, before: Sequence[State], *, diagonal: bool) -> Iterable[State]:
    """Returns the state of each block of queries after a square's keys; the state before any keys is empty."""
    count, to_power = len(before), q.shape[1] ** -0.5 * LOG2_E
    k_LK, states = k[0].T, list(before)
    waiting: deque[tuple[int, int, Any]] = deque()

    def add(i: int, j: int, scores: Any) -> None:
        highest = jnp.max(scores, 0, keepdims=True)
        if states[i]:
            highest = jnp.maximum(highest, states[i][0])
        weights = jnp.exp2((scores - highest) * to_power)
        total = jnp.sum(weights, 0, keepdims=True)
        output = _dot(v[0, :, pl.ds(j * BLOCK, BLOCK)], weights.astype(v.dtype))
        if states[i]:
            factor = jnp.exp2((states[i][0] - highest) * to_power)
            total, output = total + states[i][1] * factor, output + states[i][2] * factor
        states[i] = highest, total, output

    for i in range(count):
        for j in range(i + 1 if diagonal else count):
            scores = _dot(k_LK[j * BLOCK : (j + 1) * BLOCK], q[0, :, pl.ds(i * BLOCK, BLOCK)])
            waiting.append((i, j, _masked(scores) if diagonal and i == j else scores))
            if len(waiting) > AHEAD:
                add(*waiting.popleft())
    for block in waiting:
        add(*block)
    return states


def _backward(
    i_of: Any,
    j_of: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    log: Any,
    do: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    shift: Any,
    *sums: Any,
    squares: int,
) -> None:
    i, j = _square(i_of, j_of, squares)
    (dq_sum, dk_sum, dv_sum), length, scale = sums, q.shape[2], q.shape[1] ** -0.5
    shift[...] = jnp.sum(do[0].astype(float32) * o[0].astype(float32), 0, keepdims=True)  # Σ p·dp of each query

    def begin() -> None:
        dq_sum[...] = jnp.zeros(dq_sum.shape, float32)

    def add(*, diagonal: bool) -> None:
        k_LK, v_LK = k[0].T, v[0].T
        for start in range(0, length, BLOCK):
            first = start if diagonal else 0
            keys, queries = pl.ds(start, BLOCK), pl.ds(first, length - first)
            scores = _dot(k_LK[start : start + BLOCK], q[0, :, queries])
            scores = _masked(scores) if diagonal else scores
            p = jnp.exp2(scores * (scale * LOG2_E) - log[0, :, queries] * LOG2_E)
            dp = _dot(v_LK[start : start + BLOCK], do[0, :, queries])
            ds = (p * (dp - shift[:, queries])).astype(q.dtype)
            _put(dv_sum, keys, _dot(do[0, :, queries], p.astype(do.dtype), transpose_b=True), add=not diagonal)
            _put(dk_sum, keys, _dot(q[0, :, queries], ds, transpose_b=True), add=not diagonal)
            if squares > 1:
                queries = pl.ds(pl.multiple_of(i * length + first, BLOCK), length - first)
            _put(dq_sum, queries, _dot(k[0, :, keys], ds), add=squares > 1 or start > 0)

    def write_keys() -> None:
        dk[0], dv[0] = (dk_sum[...] * scale).astype(dk.dtype), dv_sum[...].astype(dv.dtype)

    def write_queries() -> None:
        dq[0] = (dq_sum[...] * scale).astype(dq.dtype)

    if squares > 1:
        pl.when((i == 0) & (j == 0))(begin)
        pl.when(i > j)(lambda: add(diagonal=False))
    _when(i == j, lambda: add(diagonal=True))
    _when(i == squares - 1, write_keys)
    _when(j == squares - 1, write_queries)


def _put(sums: Any, at: Any, value: Any, *, add: bool) -> None:
    sums[:, at] = sums[:, at] + value if add else value


PRODUCTS = {_forward: 2, _backward: 5}  # of each block of scores, 2 · K FLOPs a score each
