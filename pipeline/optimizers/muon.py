"""Muon: orthogonalized momentum for the blocks' kernels; AdamW for everything else.

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/, and
https://github.com/KellerJordan/Muon; at scale: Liu et al., 2025, https://arxiv.org/abs/2502.16982. With gradient G of a
matrix X [inputs, outputs]:

    M = momentum · M + (1 - momentum) · G
    U = momentum · M + (1 - momentum) · G       (Nesterov's; without, U = M)
    X = X - learning_rate · sqrt(max(1, outputs / inputs)) · orthogonalize(U)

Matrices that stand side by side in a kernel (queries, keys and values) count separately. ``matrices_in`` of
models/weight_specs.py says which variables are matrices, and how many.

If slots are split, each replica owns whole matrices: it alone has their momentum and orthogonalizes them, in stacks of
one shape (transposed if there are more inputs than outputs). A matrix's gradient is on every replica.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from models.weight_specs import matrices_in
from pipeline.optimizers.adamw import AdamW
from pipeline.optimizers.base import slot_name
from pipeline.optimizers.config import MuonConfig
from pipeline.optimizers.matrices import Matrix, stacks, turns
from pipeline.optimizers.schedules import Schedule
from pipeline.optimizers.sharded_slots import WholeMatrices

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: the steepest at 0 that keeps singular values near 1


def orthogonalize(x: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns U·S·V' of each matrix x = U·D·V' [..., N, M], float32, with the diagonal of S near 1; zeros stay zeros.

    Newton and Schulz's iteration, which needs only matrix products. They are written in float32: a TPU rounds the
    inputs of such products to bfloat16 and accumulates in float32, a precision that Jordan found to be enough.
    """
    if x.shape[-2] > x.shape[-1]:
        return tf.linalg.matrix_transpose(orthogonalize(tf.linalg.matrix_transpose(x), steps))
    a, b, c = QUINTIC
    x /= tf.sqrt(tf.reduce_sum(tf.square(x), [-2, -1], keepdims=True)) + 1e-7

    def step(i: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gram = tf.matmul(x, x, transpose_b=True)
        return i + 1, a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)

    # A loop: unrolled for every kernel, its products would be most of a deep model's program.
    return tf.while_loop(lambda i, _: i < steps, step, (tf.constant(0), x), maximum_iterations=steps)[1]


@keras.saving.register_keras_serializable("pipeline")
class Muon(AdamW):
    """Muon under the settings of ``MuonConfig``, which documents them.

    Example:
        >>> from pipeline.optimizers.schedules import Schedule
        >>> weights = keras.Variable([[1.0, 0.0], [0.0, 2.0]], name="mlp_input_kernel")
        >>> config = MuonConfig(learning_rate=0.1, adamw_learning_rate=0.01)
        >>> optimizer = Muon(config, Schedule(kind="constant", steps=100))
        >>> optimizer.build([weights])
        >>> optimizer.update([tf.constant([[0.0, 5.0], [-0.5, 0.0]])], [weights])
        >>> weights.numpy().round(2)  # changes of one size, from gradients of 5 and 0.5
        array([[ 1.  , -0.07],
               [ 0.07,  2.  ]], dtype=float32)
    """

    config_class = MuonConfig
    config: MuonConfig

    def __init__(self, config: MuonConfig, schedule: Schedule):
        super().__init__(config, schedule)
        # If slots are split: the matrices by shape, and for each turn a slot with a separate matrix per replica.
        self._stacks: dict[tuple[int, int], list[Matrix]] = {}
        self._own: dict[tuple[int, int], list[keras.Variable]] = {}

    def build(self, variables: Sequence[keras.Variable], replicas: int | None = None) -> None:
        """Creates the slots, as in the base."""
        if self.built:
            return
        super().build(variables, replicas)
        if self.slot_owners == 1:
            return
        self._stacks = stacks({variable.path: tuple(variable.shape) for variable in variables})
        for shape, members in self._stacks.items():
            names = [f"matrices_{shape[0]}x{shape[1]}_{turn}" for turn in range(turns(members, self.slot_owners))]
            self._own[shape] = [self._add_own(shape, name) for name in names]

    def _add_slots(self, variable: keras.Variable) -> dict[str, keras.Variable]:
        return {} if self.slot_owners > 1 and matrices_in(variable.path) else super()._add_slots(variable)

    def state(self) -> dict[str, Any]:
        """Returns the step counter and the slots by name; the momentum of a kernel is one array."""
        own = {slot.path for slots in self._own.values() for slot in slots}
        places = {
            matrix: (self._own[shape][i // self.slot_owners], i % self.slot_owners)
            for shape, members in self._stacks.items()
            for i, matrix in enumerate(members)
        }
        state = {path: value for path, value in super().state().items() if path not in own}
        for variable in self._trainable_variables if places else ():
            if count := matrices_in(variable.path):
                owned = [places[Matrix(variable.path, number)] for number in range(count)]
                whole = WholeMatrices(owned, tuple(variable.shape))
                state[f"{self.name}/{slot_name(variable, 'momentum')}"] = whole
        return state

    def scaled_update(
        self, gradient: tf.Tensor, weights: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """Returns Muon's change for a kernel, or AdamW's for another variable, and assigns the slots."""
        count = matrices_in(variable.path)
        if not count:
            return super().scaled_update(gradient, weights, variable, learning_rate)
        direction = self._direction(gradient, self.slots(variable)["momentum"])
        matrices = orthogonalize(tf.stack(tf.split(direction, count, axis=1)), self.config.newton_schulz_steps)
        return learning_rate * tf.concat([_scaled(matrix) for matrix in tf.unstack(matrices)], axis=1)

    def _direction(self, gradient: tf.Tensor, slot: keras.Variable) -> tf.Tensor:
        """Returns what to orthogonalize, and assigns the slot."""
        momentum, fresh = self.config.momentum, (1.0 - self.config.momentum) * gradient
        mean = momentum * tf.convert_to_tensor(slot) + fresh
        slot.assign(mean)
        return momentum * mean + fresh if self.config.nesterov else mean

    def update_own_rows(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], replica: tf.Tensor, usable: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Updates the matrices that a replica owns, and the rows of all else, as in the base."""
        learning_rate = self.learning_rate  # before the step counter moves
        decay = tf.where(usable, learning_rate * self.config.weight_decay, 0.0)
        directions = self._own_directions(gradients, variables, replica, usable)
        others = [i for i, variable in enumerate(variables) if not matrices_in(variable.path)]
        skipped, rows = super().update_own_rows(
            [gradients[i] for i in others], [variables[i] for i in others], replica, usable
        )
        rest, new = iter(rows), []
        for variable in variables:
            columns = []
            for number, old in enumerate(_matrices(tf.convert_to_tensor(variable), variable)):
                direction, is_mine = directions[Matrix(variable.path, number)]
                direction = direction if direction.shape == old.shape else tf.transpose(direction)
                change = learning_rate * _scaled(direction) + decay * old
                columns.append(tf.where(is_mine, old - change, 0.0))
            new.append(tf.concat(columns, axis=1) if columns else next(rest))
        return skipped, new

    def _own_directions(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], replica: tf.Tensor, usable: tf.Tensor
    ) -> dict[Matrix, tuple[tf.Tensor, tf.Tensor]]:
        """Returns, for each matrix, this replica's orthogonal matrix of its turn, and whether the replica owns it.

        If the update is not usable, returns zeros and assigns no slot.
        """
        owners, wide = self.slot_owners, {}
        for gradient, variable in zip(gradients, variables, strict=True):
            for number, matrix in enumerate(_matrices(gradient, variable)):
                wide[Matrix(variable.path, number)] = _transposed_if_tall(matrix)
        own = {}
        for shape, members in self._stacks.items():
            by_turn = [members[i : i + owners] for i in range(0, len(members), owners)]
            own[shape] = [_owned([wide[matrix] for matrix in turn], replica) for turn in by_turn]

        def apply() -> list[tf.Tensor]:
            stacked = [
                tf.stack([self._direction(g, slot) for g, slot in zip(own[shape], self._own[shape], strict=True)])
                for shape in self._stacks
            ]
            return [orthogonalize(directions, self.config.newton_schulz_steps) for directions in stacked]

        updates = tf.cond(usable, apply, lambda: [tf.zeros([len(own[shape]), *shape]) for shape in self._stacks])
        directions = {}
        for members, update in zip(self._stacks.values(), updates, strict=True):
            for i, matrix in enumerate(members):
                directions[matrix] = update[i // owners], replica == i % owners
        return directions


def _matrices(x: tf.Tensor, variable: keras.Variable) -> list[tf.Tensor]:
    """Returns the matrices of a variable's value or gradient; none if it is not a kernel of a block."""
    count = matrices_in(variable.path)
    return tf.split(x, count, axis=1) if count else []


def _transposed_if_tall(matrix: tf.Tensor) -> tf.Tensor:
    return tf.transpose(matrix) if matrix.shape[0] > matrix.shape[1] else matrix


def _owned(candidates: Sequence[tf.Tensor], replica: tf.Tensor) -> tf.Tensor:
    """Returns the candidate with the replica's number, or zeros if there is none.

    Uses selections, which XLA fuses: indexing would first copy all candidates into one array.
    """
    own = tf.zeros_like(candidates[0])
    for owner, candidate in enumerate(candidates):
        own = tf.where(replica == owner, candidate, own)
    return own


def _scaled(matrix: tf.Tensor) -> tf.Tensor:
    """Returns an orthogonal update [inputs, outputs] times sqrt(max(1, outputs / inputs))."""
    inputs, outputs = matrix.shape
    return max(1.0, outputs / inputs) ** 0.5 * matrix
