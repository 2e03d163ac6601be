"""The optimizers that the study and others compare, and its ablations of the default one.

Imports neither TensorFlow nor Keras.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """An optimizer, its settings, its learning-rate grid, and its changes to the run."""

    surface: str  # gin's name
    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # settings of other surfaces


RECIPES = {
    "adafactor": Recipe(surface="Adafactor", settings={"scale_by_parameter": False}, rates=(5e-4, 1e-3, 2e-3, 4e-3)),
    "frozen": Recipe(
        surface="FrozenAdafactor", settings={"scale_by_parameter": False}, rates=(2.5e-4, 5e-4, 1e-3, 2e-3)
    ),
    "scaled": Recipe(surface="Adafactor", settings={"scale_by_parameter": True}, rates=(2e-2, 4e-2, 8e-2, 1.6e-1)),
    "momentum": Recipe(
        surface="Adafactor", settings={"scale_by_parameter": True, "beta1": 0.9}, rates=(4e-2, 8e-2, 1.6e-1)
    ),
    "by_width": Recipe(
        surface="Adafactor", settings={"scale_by_parameter": True, "base_width": 128}, rates=(8e-2, 1.1e-1, 1.6e-1)
    ),
    "by_width_momentum": Recipe(
        surface="Adafactor",
        settings={"scale_by_parameter": True, "beta1": 0.9, "base_width": 128},
        rates=(8e-2, 1.1e-1, 1.6e-1),
    ),
    "nanogpt": Recipe(
        surface="AdamW",
        settings={"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
        rates=(2e-3, 4e-3, 8e-3),
        run={"train.schedule": "cosine", "train.final_fraction": 0.1},
    ),
    "muon": Recipe(surface="Muon", settings={"adamw_learning_rate": 8e-3}, rates=(1e-2, 2e-2, 4e-2)),
}
OPTIMIZERS = ("adafactor", "frozen", "scaled", "momentum", "nanogpt", "muon")  # of the study
OPTIMIZER_NAMES = {  # of the surfaces whose optimizer is not called as they are
    "FrozenAdafactor": "frozen_adafactor",
    "GroupedAdafactor": "grouped_adafactor",
}
ESSENTIAL = tuple(name for name in OPTIMIZERS if name not in ("adafactor", "momentum"))  # where cells are expensive
LARGER_RATES = {"scaled": (4e-2, 8e-2), "nanogpt": (2e-3, 4e-3), "muon": (1e-2, 2e-2)}  # where the grids start


def _ablation(surface: str = "Adafactor", run: Mapping[str, Any] | None = None, **settings: Any) -> Recipe:
    return Recipe(surface=surface, settings={"scale_by_parameter": True} | settings, rates=(), run=run or {})


# What each ablation changes in "scaled"; all use its rate. GroupedAdafactor's settings multiply a group's rate.
ABLATIONS = {
    "no_clipping": _ablation(clip_threshold=None),
    "decay_exponent_0.9": _ablation(decay_exponent=0.9),
    "weight_decay_0.01": _ablation(weight_decay=0.01),
    "warmup_0.02": _ablation(run={"train.warmup_fraction": 0.02}),
    "cosine_to_a_tenth": _ablation(run={"train.schedule": "cosine", "train.final_fraction": 0.1}),
    # Each group's initial weight size, instead of the current size.
    "sizes_of_the_start": _ablation(
        "GroupedAdafactor", scale_by_parameter=False, tables=0.02, matrices=0.02, norms=1.0, biases=1e-3
    ),
    "tables_3": _ablation("GroupedAdafactor", tables=3.0),
    "tables_0.33": _ablation("GroupedAdafactor", tables=1 / 3),
    "norms_0.1": _ablation("GroupedAdafactor", norms=0.1),
    "matrices_0.5": _ablation("GroupedAdafactor", matrices=0.5),
    "matrices_0.25": _ablation("GroupedAdafactor", matrices=0.25),
    "biases_0": _ablation("GroupedAdafactor", biases=0.0),
}
ALGPT2_ABLATIONS = {
    "matrices_0.5": ABLATIONS["matrices_0.5"],
    "matrices_0.25": ABLATIONS["matrices_0.25"],
    "linear_0.5": _ablation("GroupedAdafactor", linear=0.5),
}
RECIPES = RECIPES | ABLATIONS | ALGPT2_ABLATIONS
