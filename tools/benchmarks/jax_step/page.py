"""The section of docs/step_on_tpu.md that compares our step with JAX's, from the figures of both."""

from typing import Any

from pipeline.errors import UserError
from pipeline.preflight.compiled import GIB
from tools.benchmarks.jax_step.program import BLOCK

ATTENTION = ("splash", "plain")
OURS = ("fused", "plain")
HEAD = """
## Against JAX

Measured by `python -m tools.benchmarks.jax_step`: the same model as a JAX {jax} user would write it
([gpt2.py](../tools/benchmarks/jax_step/gpt2.py)), compiled by the same libtpu and counted by the same rules. In float32
on a CPU, its loss and gradients equal ours up to rounding. It is `jax.grad` of 12 unrolled blocks, with one product for
queries, keys and values, and no remat. The gradients are averaged over the devices once, in float32. The update is
optax {optax}'s Adafactor with our settings, after optax's clipping by the global norm; new weights and slots reuse
the memory of the old ones. *Splash* is JAX's own attention kernel with its fused backward kernel, in squares of {block}
by {block} scores: compiled alone for v5e and v6e, these took fewer bundles than squares of 256 or 1,024 and than oblong
ones, and at most 2 % more than with time last in queries, keys or values. *Plain* is `jax.nn.dot_product_attention`.

| slice | step | attention | schedule ms | waits ms | cycles ms | traffic GB | peak GiB |
|---|---|---|---|---|---|---|---|
"""
TAIL = """
Differences:

- Splash skips the squares above the diagonal under a condition, and starts and ends its sums under two others. Unlike
  in the tables above, what a condition skips does not count here; counted as there, the schedule is
  {schedule_with_masked}. Its kernels are {kernels} of it.
- JAX's loss is not chunked, and the compiler keeps its float32 logits in HBM (824 MB). Ours computes the gradient in
  the same pass as the loss, and keeps exponentials in bfloat16.
- JAX's weight gradients have type bfloat16 until they are summed over devices, though the compiler may omit the
  rounding; ours are float32.
- With an einsum in place of the one product for queries, keys and values, splash took 28.7 ms on v5e-16 and 11.7 ms
  on v6e-8.
- Ours also reports the norm of each variable's gradient, and skips a step whose loss or gradient is not finite.
"""


def of_one_model(jax: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Returns whether any of both steps train the same model with the same optimizer; arguments as in ``section``."""
    theirs = {row["model"].partition(", ")[2] for of_slice in jax.values() for row in of_slice.values()}
    own = {row["model"] for of_slice in ours.values() for row in of_slice.values()}
    return not theirs or any(f"gpt2 ({parameters}, adafactor)" == model for parameters in theirs for model in own)


def section(jax: dict[str, Any], ours: dict[str, Any]) -> str:
    """Returns the section; nothing if JAX's step was not measured.

    Args:
        jax: figures by slice and attention, as docs/step_in_jax.json holds them.
        ours: figures by slice and attention, as docs/step_on_tpu.json holds them.

    Raises:
        UserError: the figures are not from one program, or not from our compiler and context.
    """
    rows = [(name, kind, jax[name][kind]) for name in sorted(jax) for kind in ATTENTION if kind in jax[name]]
    if not rows:
        return ""
    first = rows[0][2]
    ours_first = next(row for of_slice in ours.values() for row in of_slice.values())
    for name, kind, row in rows:
        if any(row[key] != first[key] for key in ("model", "versions")):
            raise UserError(f"JAX's {name}, {kind} is of another model or jax than {rows[0][0]}; measure both alike")
        if (row["context"], row["versions"]["libtpu"]) != (ours_first["context"], ours_first["libtpu"]):
            raise UserError(f"JAX's {name}, {kind} is of another context or compiler than our step; measure both alike")
    lines = [HEAD.format(**first["versions"], block=BLOCK)]
    for name in sorted(jax):
        lines += [_row(name, "ours", kind, _of_ours(ours[name][kind])) for kind in OURS if kind in ours.get(name, {})]
        lines += [_row(name, "JAX", kind, row) for of, kind, row in rows if of == name]
    of_splash = [(name, row) for name, kind, row in rows if kind == "splash"]
    if of_splash:
        lines.append(TAIL.format(**{key: _each(of_splash, key) for key in ("schedule_with_masked", "kernels")}))
    return "".join(lines)


def _each(rows: list[tuple[str, dict[str, Any]]], key: str) -> str:
    """Returns a figure for each slice, such as "30.9 ms on v5e-16 and 13.1 ms on v6e-8"."""
    return " and ".join(f"{1e3 * row[key]:.1f} ms on {name}" for name, row in rows)


def _of_ours(row: dict[str, Any]) -> dict[str, Any]:
    """Returns our step's figures under the names of JAX's."""
    return row | {"schedule": sum(row["seconds"].values()), "waits": sum(row["waits"].values())}


def _row(name: str, step: str, attention: str, row: dict[str, Any]) -> str:
    times = " | ".join(f"{1e3 * row[key]:.1f}" for key in ("schedule", "waits", "cycles"))
    return f"| {name} | {step} | {attention} | {times} | {row['traffic'] / 1e9:.1f} | {row['peak'] / GIB:.2f} |\n"
