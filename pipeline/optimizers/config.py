"""Optimizer settings that gin can bind: one frozen dataclass each for Adafactor, AdamW, Muon and SGD.

Imports neither TensorFlow nor Keras, so that a dry run can print slot bytes and effective learning rates at once.
Defaults and their documentation live only here; each optimizer's mathematics has its own file.

Weight decay is decoupled everywhere (Loshchilov & Hutter, 2019): a weight shrinks by learning_rate(step) × weight_decay
× itself, separately from the update. Biases and layer norms (variables of fewer than two axes) do not decay.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.weight_specs import matrices_in
from pipeline.errors import UserError
from pipeline.optimizers.matrices import stacks, turns

FLOAT32_BYTES = 4


def largest_axes(shape: Sequence[int], minimum: int) -> tuple[int, int] | None:
    """Returns the two largest axes (second largest, largest; on a tie the later is larger), or None.

    None if the second largest is below ``minimum``: the variable then keeps an unfactored second moment. This is the
    rule of optax and T5X; Shazeer & Stern's own code took the last two axes.
    """
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return (order[-2], order[-1]) if shape[order[-2]] >= minimum else None


def decays(shape: Sequence[int]) -> bool:
    """Whether weight decay applies: true for matrices and tables, false for biases and layer norms."""
    return len(shape) >= 2


def block_shape(shape: Sequence[int], replicas: int) -> tuple[int, ...]:
    """Returns the shape of the block of an array's rows that each replica owns; all blocks are equal."""
    return (-(-shape[0] // replicas), *shape[1:])


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of every optimizer.

    Args:
        learning_rate: The rate at the schedule's highest point.
        weight_decay: Decoupled decay; 0 = none.
    """

    learning_rate: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("weight_decay", self.weight_decay >= 0, "0 or more")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise UserError(f"{name}={getattr(self, name)} must be {expected}")

    def slot_shapes(self, shape: Sequence[int], name: str = "") -> dict[str, tuple[int, ...]]:
        """Returns the shape of each float32 slot that a variable of this shape and name needs, by the slot's name."""
        raise NotImplementedError

    def rate_of(self, name: str, shape: Sequence[int]) -> float:
        """Returns the learning rate of the variable of this name and shape at the schedule's highest point."""
        return self.learning_rate

    def effective_rate(self, weight_rms: float, shape: Sequence[int], name: str) -> float:
        """Returns the rate that multiplies an update of RMS 1, for a variable whose weights have this RMS."""
        return self.rate_of(name, shape)

    def splits_slots(self, replicas: int) -> bool:
        """Whether each of this many replicas holds only its own rows of every slot."""
        return False

    def slot_bytes(self, shapes: Mapping[str, Sequence[int]], replicas: int) -> int:
        """Returns the bytes of all slots of one replica, for variables of these shapes (by name)."""
        slots = [slot for name, shape in shapes.items() for slot in self.slot_shapes(shape, name).values()]
        if self.splits_slots(replicas):
            slots = [block_shape(slot, replicas) for slot in slots]
        return FLOAT32_BYTES * sum(map(math.prod, slots))


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor (Shazeer & Stern, 2018, https://arxiv.org/abs/1804.04235).

    Args:
        learning_rate: Relative to each variable's RMS if ``scale_by_parameter`` is on (the paper's rho, at most 1e-2),
            absolute if it is off. With the scaling on, a usual absolute rate like 2.5e-4 is about fifty times smaller
            than it looks; a run prints every variable's effective learning rate when it starts.
        weight_decay: Decoupled decay, multiplied by the learning rate but not by the variable's RMS; 0 = none.
        beta1: Decay of the running mean of the scaled update; None or 0 = no momentum, and no slot for it.
        decay_exponent: The second moment decays by 1 - t ** -decay_exponent at update t = 1, 2, ...
        clip_threshold: Updates whose RMS over the variable exceeds this are scaled down to it; None = no clipping.
        scale_by_parameter: Multiply the update by max(epsilon2, RMS(variable)).
        base_width: The model width for which ``learning_rate`` was chosen. At width D, the rate of the blocks' matrices
            is multiplied by base_width / D, as in muP (Yang et al., 2022, https://arxiv.org/abs/2203.03466): they begin
            equally large at every width, and their results are sums over the width. Tables, norms, biases and ALGPT2's
            linear layers keep their rate. None = the same rate for all variables, at every width. Has no effect without
            ``scale_by_parameter``.
        min_dim_size_to_factor: Factor the second moment over the two largest axes if both have this length or more.
        epsilon1: Added to squared gradients.
        epsilon2: The lower bound of the parameter scale.

    Example:
        >>> AdafactorConfig(learning_rate=1e-2).slot_shapes((50_304, 768))
        {'row': (768,), 'column': (50304,)}
    """

    beta1: float | None = None
    decay_exponent: float = 0.8
    clip_threshold: float | None = 1.0
    scale_by_parameter: bool = True
    base_width: int | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("beta1", self.beta1 is None or 0 <= self.beta1 < 1, "None, or from 0 to below 1")
        self._require("decay_exponent", 0 < self.decay_exponent <= 1, "above 0 and at most 1")
        self._require("clip_threshold", self.clip_threshold is None or self.clip_threshold > 0, "None, or above 0")
        self._require("base_width", self.base_width is None or self.base_width >= 1, "None, or at least 1")
        self._require("min_dim_size_to_factor", self.min_dim_size_to_factor >= 1, "at least 1")
        self._require("epsilon1", self.epsilon1 > 0, "above 0")
        self._require("epsilon2", self.epsilon2 > 0, "above 0")

    def slot_shapes(self, shape: Sequence[int], name: str = "") -> dict[str, tuple[int, ...]]:
        """Returns ``row`` (without the largest axis) and ``column`` (without the second largest), or ``moment``."""
        axes = largest_axes(shape, self.min_dim_size_to_factor)
        if axes is None:
            slots = {"moment": tuple(shape)}
        else:
            slots = {
                name: tuple(length for axis, length in enumerate(shape) if axis != left_out)
                for name, left_out in (("row", axes[1]), ("column", axes[0]))
            }
        return {**slots, "momentum": tuple(shape)} if self.beta1 else slots

    def rate_of(self, name: str, shape: Sequence[int]) -> float:
        """Returns ``learning_rate``, for the blocks' matrices as ``base_width`` says."""
        if self.base_width is None or not self.scale_by_parameter or not matrices_in(name):
            return self.learning_rate
        return self.learning_rate * self.base_width / min(shape)  # the width is the shorter side of all

    def effective_rate(self, weight_rms: float, shape: Sequence[int], name: str) -> float:
        """Returns the variable's learning rate times the parameter scale."""
        return self.rate_of(name, shape) * (max(self.epsilon2, weight_rms) if self.scale_by_parameter else 1.0)


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101).

    Args:
        beta1: Decay of the running mean of gradients.
        beta2: Decay of the running mean of squared gradients.
        epsilon: Added to the root of the second moment, after the bias correction.
        slots: ``'replicated'`` keeps both whole slots on every replica, 8 bytes per parameter. ``'sharded'`` shards
            them across the replicas: each updates its own rows of the weights (ZeRO stage 1, Rajbhandari et al., 2020,
            https://arxiv.org/abs/1910.02054), and a second all-reduce of the weights' size combines them. Weights and
            checkpoints are the same with both, and a run can resume with either.

    Example:
        >>> shapes = {"kernel": (1024, 1024)}
        >>> [AdamWConfig(learning_rate=1e-3, slots=slots).slot_bytes(shapes, 8) for slots in ("replicated", "sharded")]
        [8388608, 1048576]
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    slots: Literal["replicated", "sharded"] = "replicated"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("beta1", 0 <= self.beta1 < 1, "from 0 to below 1")
        self._require("beta2", 0 <= self.beta2 < 1, "from 0 to below 1")
        self._require("epsilon", self.epsilon > 0, "above 0")

    def slot_shapes(self, shape: Sequence[int], name: str = "") -> dict[str, tuple[int, ...]]:
        """Returns ``mean`` and ``moment``, both of the variable's shape."""
        return {"mean": tuple(shape), "moment": tuple(shape)}

    def splits_slots(self, replicas: int) -> bool:
        """Whether ``slots`` is ``'sharded'`` and there is more than one replica."""
        return self.slots == "sharded" and replicas > 1


@dataclass(frozen=True, kw_only=True)
class MuonConfig(AdamWConfig):
    """Muon on the matrices of blocks, AdamW on all else (Jordan, 2024, https://kellerjordan.github.io/posts/muon/).

    Args:
        learning_rate: For the matrices. A matrix [inputs, outputs] changes by learning_rate × sqrt(max(1, outputs /
            inputs)) × a nearly orthogonal matrix; the change's RMS is learning_rate / sqrt(inputs). 0.02 is usual.
        adamw_learning_rate: For tables, norms, biases and ALGPT2's linear layers, which AdamW updates. It follows the
            same schedule. 4e-3 suits small models.
        weight_decay: Decoupled decay, multiplied by the variable's learning rate; 0 = none.
        momentum: Decay of the running mean of a matrix's gradients.
        nesterov: Orthogonalize (1 - momentum) × gradient + momentum × mean, in place of the mean.
        newton_schulz_steps: Iterations that orthogonalize; with 5, singular values end between about 0.7 and 1.2.
        beta1: For AdamW: decay of the running mean of gradients.
        beta2: For AdamW: decay of the running mean of squared gradients.
        epsilon: For AdamW: added to the root of the second moment, after the bias correction.
        slots: ``'replicated'`` keeps all slots whole on every replica, and each orthogonalizes all matrices: for GPT-2
            small, as much work as the model's on 2,200 tokens. ``'sharded'`` shards slots and work across the replicas:
            each owns whole matrices, and rows of all else as with AdamW. A second all-reduce of the weights' size
            combines the new weights. Weights and checkpoints are the same with both, and a run can resume with either.

    Example:
        >>> config = MuonConfig(learning_rate=0.02, adamw_learning_rate=4e-3)
        >>> config.slot_shapes((768, 3072), "block_00/mlp_input_kernel")
        {'momentum': (768, 3072)}
        >>> config.slot_shapes((768,), "final_norm_bias")
        {'mean': (768,), 'moment': (768,)}
    """

    adamw_learning_rate: float
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("adamw_learning_rate", self.adamw_learning_rate > 0, "above 0")
        self._require("momentum", 0 <= self.momentum < 1, "from 0 to below 1")
        self._require("newton_schulz_steps", self.newton_schulz_steps >= 1, "at least 1")

    def slot_shapes(self, shape: Sequence[int], name: str = "") -> dict[str, tuple[int, ...]]:
        """Returns ``momentum`` for the blocks' matrices, else AdamW's slots."""
        return {"momentum": tuple(shape)} if matrices_in(name) else super().slot_shapes(shape, name)

    def rate_of(self, name: str, shape: Sequence[int]) -> float:
        """Returns ``learning_rate`` for the blocks' matrices, and ``adamw_learning_rate`` for all else."""
        return self.learning_rate if matrices_in(name) else self.adamw_learning_rate

    def effective_rate(self, weight_rms: float, shape: Sequence[int], name: str) -> float:
        """Returns the RMS of a matrix's change, if the change is orthogonal, or AdamW's rate."""
        return self.rate_of(name, shape) / (math.sqrt(shape[0]) if matrices_in(name) else 1.0)

    def slot_bytes(self, shapes: Mapping[str, Sequence[int]], replicas: int) -> int:
        """Returns the bytes as for AdamW; a replica without a matrix in some turn still has room for one."""
        if not self.splits_slots(replicas):
            return super().slot_bytes(shapes, replicas)
        own = sum(math.prod(shape) * turns(members, replicas) for shape, members in stacks(shapes).items())
        others = {name: shape for name, shape in shapes.items() if not matrices_in(name)}
        return FLOAT32_BYTES * own + super().slot_bytes(others, replicas)


@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with heavy-ball momentum: v = momentum × v + g, w = w - learning rate × v.

    Args:
        momentum: 0 = none, and no slot for it.
        nesterov: Step from where the momentum leads (Sutskever et al., 2013): g + momentum × v.

    Example:
        >>> SGDConfig(learning_rate=0.1, momentum=0.0).slot_shapes((3, 4))
        {}
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("momentum", 0 <= self.momentum < 1, "from 0 to below 1")

    def slot_shapes(self, shape: Sequence[int], name: str = "") -> dict[str, tuple[int, ...]]:
        """Returns ``momentum``, or nothing without it."""
        return {"momentum": tuple(shape)} if self.momentum else {}


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adafactor": AdafactorConfig,
    "adamw": AdamWConfig,
    "muon": MuonConfig,
    "sgd": SGDConfig,
}
