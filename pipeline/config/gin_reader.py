"""The surfaces that gin can configure, and which of them a command line chooses and uses.

Every surface is a frozen dataclass in a module that imports neither TensorFlow nor Keras, so that a dry run or a
mistyped name takes milliseconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from models.config import MODELS
from pipeline.config.train_config import TrainConfig
from pipeline.data.format.settings import ShardConfig
from pipeline.devices import slices
from pipeline.errors import UserError, nearest
from pipeline.gin_files import ON_COMMAND_LINE, ROOT, Configuration
from pipeline.optimizers.config import OPTIMIZERS

__all__ = ["MODELS", "OPTIMIZERS", "ROOT", "SURFACES", "chosen", "load", "reject_unused_overrides"]

SURFACES: dict[str, type] = {
    "train": TrainConfig,
    **{kind.__name__.removesuffix("Config"): kind for kind in (*MODELS.values(), *OPTIMIZERS.values())},
    "shard": ShardConfig,
    "slice": slices.Slice,
}
T = TypeVar("T")


def load(files: Sequence[str], parameters: Sequence[str] = ()) -> Configuration:
    """Returns the configuration that ``Configuration.read`` binds from ``files``, then from ``parameters``."""
    configuration = Configuration(SURFACES, by_name=slices.gin_text)
    configuration.read(files, parameters)
    return configuration


def chosen(configuration: Configuration, kinds: Mapping[str, type[T]], name: str, setting: str) -> T:
    """Returns the configured model or optimizer (of MODELS or OPTIMIZERS) that a value like ``'algpt2'`` chooses."""
    if name not in kinds:
        raise UserError(f"{setting} = {name!r}: expected one of {', '.join(sorted(kinds))}{nearest(name, kinds)}")
    return configuration.get(kinds[name])


def reject_unused_overrides(configuration: Configuration, *used: type) -> None:
    """Raises UserError for a binding of a surface that the command does not read; it reads ``used``.

    A file may set a model or optimizer that was not chosen in two cases: the files chose it before a later line chose
    another (gin/gpt2.gin sets Adafactor for runs that choose no other optimizer), or they leave the choice to the
    command line.
    """
    names = [configuration.name_of(surface) for surface in used]
    for owner, parameter in configuration.bindings:
        origin = configuration.origin(owner, parameter)
        by_hand = origin.startswith(ON_COMMAND_LINE)
        if owner in names or (TrainConfig in used and not by_hand and _was_chosen(configuration, SURFACES[owner])):
            continue
        of_used = {setting for setting in configuration.settings() if setting.partition(".")[0] in names}
        near = nearest(f"{owner}.{parameter}", {f"{name}.{parameter}" for name in names} & of_used)
        raise UserError(
            f"{origin}: {owner}.{parameter} has no effect here: {owner} is not used, but {', '.join(names)}{near}"
        )


def _was_chosen(configuration: Configuration, surface: type) -> bool:
    """Whether the files chose a model or an optimizer at some point, or leave the choice to the command line."""
    kinds: Mapping[str, Any]
    for parameter, kinds in (("model", MODELS), ("optimizer", OPTIMIZERS)):
        if surface in kinds.values():
            given = configuration.bindings.get(("train", parameter), [])
            by_hand = bool(given) and given[-1][1].startswith(ON_COMMAND_LINE)
            return by_hand or any(not isinstance(name, str) or kinds.get(name) is surface for name, _ in given)
    return False
