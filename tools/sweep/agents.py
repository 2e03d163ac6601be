"""A sweep in Weights & Biases' format, for users who let its agents choose the cells.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
"""

from collections.abc import Iterable
from typing import Any

import yaml

from pipeline.errors import UserError
from tools.sweep.axes import Axis, Range
from tools.sweep.cells import Base

DISTRIBUTIONS = {"log": "log_uniform_values", "uniform": "uniform", "int": "int_uniform"}


def configuration(base: Base, directory: str, axes: Iterable[Axis], *, seeds: int) -> str:
    """Returns the YAML file of ``wandb sweep``; its agents run tools.sweep with one cell each, so they use its ledger.

    UserError if nothing varies.
    """
    parameters = {axis.name: _parameter(axis) for axis in axes}
    if seeds:
        parameters["train.seed"] = {"values": list(range(seeds))}
    if not parameters:
        raise UserError("--wandb_sweep: nothing varies; expected --grid, --sample or --seeds")
    sampled = any("distribution" in parameter for parameter in parameters.values())
    shared = [f"--gin_file={file}" for file in base.gin_files] + [f"--gin_param={value}" for value in base.gin_params]
    shared += [f"--tpu={base.tpu}"] if base.tpu else []
    shared += [f"--data={base.data}", f"--run_dir={directory}"]
    document = {
        "program": "tools/sweep",
        "method": "random" if sampled else "grid",
        "metric": {"name": "validation.nats_per_token", "goal": "minimize"},
        "parameters": parameters,
        "command": ["${env}", "python", "-m", "tools.sweep", *shared, "${args_no_hyphens}"],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _parameter(axis: Axis) -> dict[str, Any]:
    if not isinstance(axis.values, Range):
        return {"values": list(axis.values)}
    kind = int if axis.values.kind == "int" else float
    return {
        "distribution": DISTRIBUTIONS[axis.values.kind],
        "min": kind(axis.values.low),
        "max": kind(axis.values.high),
    }
