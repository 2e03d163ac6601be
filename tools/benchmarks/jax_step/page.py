"""The section of docs/step_on_tpu.md that compares our step with JAX's, from the figures of both."""

from typing import Any

from pipeline.errors import UserError
from pipeline.preflight.compiled import GIB

ATTENTION = ("splash", "plain")
OURS = ("fused", "plain")
HEAD = """
## Against JAX

Measured by `python -m tools.benchmarks.jax_step`: the same model as a user of JAX {jax} writes it
([gpt2.py](../tools/benchmarks/jax_step/gpt2.py)), compiled by the same libtpu and counted by the same rules. Its losses and
gradients are ours, on a CPU in float32. `jax.grad` of a loop over 12 blocks that is unrolled, one product for queries, keys and
values, no remat; the gradients' mean over the devices is taken once, in float32; Adafactor is optax {optax}'s after its
clipping by the global norm, and old weights and slots give their memory to the new ones. *Splash* is JAX's own attention
kernel, with its fused backward kernel, in squares of {block} × {block} scores, which gave fewer bundles on v5e and v6e than 256,
1,024 or two unequal edges, and than keys or queries with time last. *Plain* is `jax.nn.dot_product_attention`.

| slice | step | attention | schedule ms | waits ms | cycles ms | traffic GB | peak GiB |
|---|---|---|---|---|---|---|---|
"""
TAIL = """
What is not equal:

- Splash skips the squares above the diagonal under a condition. Here, unlike in the table above, they do not count, nor does
  what it does only at the first or the last square of a row: with them its schedule would be {with_masked}.
- JAX's loss takes all tokens at once, and its compiler keeps the float32 logits in HBM (824 MB). Ours computes the gradient
  in the pass of the loss, and keeps exponentials in bfloat16.
- JAX's gradients of bfloat16 products are rounded to bfloat16 before they are summed over devices; ours are float32.
- Ours also reports the norm of each variable's gradient, and skips a step whose loss or gradient is not finite.
"""


def section(jax: dict[str, Any], ours: dict[str, Any]) -> str:
    """Returns the section; nothing if JAX's step was not measured.

    Args:
        jax: figures by slice and attention, as docs/step_in_jax.json holds them.
        ours: figures by slice and attention, as docs/step_on_tpu.json holds them.

    Raises:
        UserError: the figures are not of one program, or not of our compiler and context.
    """
    rows = [(name, kind, jax[name][kind]) for name in sorted(jax) for kind in ATTENTION if kind in jax[name]]
    if not rows:
        return ""
    first = rows[0][2]
    ours_first = [row for of_slice in ours.values() for row in of_slice.values()][0]
    for name, kind, row in rows:
        if any(row[key] != first[key] for key in ("model", "versions")):
            raise UserError(f"JAX's {name}, {kind} is of another model or version than {rows[0][0]}; measure both alike")
        if (row["context"], row["versions"]["libtpu"]) != (ours_first["context"], ours_first["libtpu"]):
            raise UserError(f"JAX's {name}, {kind} is of another context or compiler than our step; measure both alike")
    block = next((row["block"] for *_, row in rows if row["block"]), "-")
    lines = [HEAD.format(**first["versions"] | {"block": block})]
    for name in sorted(jax):
        lines += [_row(name, "ours", kind, _of_ours(ours[name][kind])) for kind in OURS if kind in ours.get(name, {})]
        lines += [_row(name, "JAX", kind, row) for of, kind, row in rows if of == name]
    masked = [f"{1e3 * row['schedule_with_masked']:.1f} ms on {name}" for name, kind, row in rows if kind == "splash"]
    return "".join([*lines, TAIL.format(with_masked=" and ".join(masked) or "longer")])


def _of_ours(row: dict[str, Any]) -> dict[str, Any]:
    """Returns our step's figures as those of JAX's are called."""
    return row | {"schedule": sum(row["seconds"].values()), "waits": sum(row["waits"].values())}


def _row(name: str, step: str, attention: str, row: dict[str, Any]) -> str:
    times = " | ".join(f"{1e3 * row[key]:.1f}" for key in ("schedule", "waits", "cycles"))
    return f"| {name} | {step} | {attention} | {times} | {row['traffic'] / 1e9:.1f} | {row['peak'] / GIB:.2f} |\n"
