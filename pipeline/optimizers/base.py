"""The base of all optimizers: float32 slots with stable names, and an update made of local assignments.

Keras's own ``apply`` leaves the replica for a merge call, which neither XLA nor a loop of steps on a TPU allows.
``update`` does not: every replica holds the same averaged gradients and assigns to its own copy of the variables. So
slots and the step counter have aggregation "none"; weights need it too (Keras's default).
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import keras
import tensorflow as tf

from pipeline.optimizers.config import FLOAT32_BYTES, OptimizerConfig, block_shape, decays
from pipeline.optimizers.schedules import Schedule
from pipeline.optimizers.sharded_slots import WholeSlot, own_rows, own_sum_of_squares, placed


class Optimizer(keras.optimizers.Optimizer):
    """The base: a subclass names its config class and computes one variable's update in ``scaled_update``.

    A variable may have ``logical_rows``, the number of real rows of its first axis; the rest are padding with zero
    weights and gradients. Means use the real rows only, so that padding a vocabulary to a multiple of 128 does not
    change any real row's update.

    Args:
        config: The settings.
        schedule: The learning rate's factor as a function of the step.

    Attributes:
        slot_owners: Number of replicas that share every slot, known after ``build``; 1 if each holds whole slots.
    """

    config_class: ClassVar[type[OptimizerConfig]]

    def __init__(self, config: OptimizerConfig, schedule: Schedule):
        name = type(self).__name__.lower()
        super().__init__(learning_rate=lambda: self.learning_rate, name=name)
        self.config = config
        self.schedule = schedule
        # Keras's counter is an int64, which TPUs emulate, and aggregates over replicas in a merge call. 2**31
        # steps are enough.
        self._variables.clear()
        with keras.name_scope(name):
            self._iterations = keras.Variable(0, name="iteration", dtype="int32", trainable=False, aggregation="none")
        self._slots: dict[str, dict[str, keras.Variable]] = {}
        self.slot_owners = 1

    def _var_key(self, variable: Any) -> str:
        """Identifies Keras variables by path, so that a preflight's variable without a value has slots too."""
        return variable.path if isinstance(variable, keras.Variable) else self._paths[super()._var_key(variable)]

    @property
    def _paths(self) -> dict[str, str]:
        """Paths by the identity of the tf.Variable that Keras's own ``apply`` passes."""
        identity = super()._var_key
        return {identity(variable): variable.path for variable in self._trainable_variables}

    @property
    def learning_rate(self) -> Any:
        """The rate of the next update (float32 scalar)."""
        step = tf.cast(tf.convert_to_tensor(self._iterations), tf.float32)
        return self.config.learning_rate * self.schedule(step, tf.math)

    def rate_after(self, updates: int) -> float:
        """Returns the learning rate of the update that follows ``updates`` updates."""
        return float(self.config.learning_rate * self.schedule(float(updates)))

    def build(self, variables: Sequence[keras.Variable], replicas: int | None = None) -> None:
        """Creates the slots in the active strategy's scope.

        Args:
            variables: Every variable that ``update`` will get; their paths must differ.
            replicas: Number of replicas that share the slots if the settings say so; None: the strategy's.

        Raises:
            ValueError: Two variables share a path, so a checkpoint could not distinguish their slots.
        """
        if self.built:
            return
        super().build(list(variables))
        replicas = replicas or tf.distribute.get_strategy().num_replicas_in_sync
        if self.config.splits_slots(replicas):
            self.slot_owners = replicas
        for variable in variables:
            if variable.path in self._slots:
                raise ValueError(f"two variables are called {variable.path!r}; slots need distinct names")
            self._slots[variable.path] = self._add_slots(variable)

    def _add_slots(self, variable: keras.Variable) -> dict[str, keras.Variable]:
        shapes = self.config.slot_shapes(tuple(variable.shape), variable.path)
        return {slot: self._add_slot(shape, slot_name(variable, slot)) for slot, shape in shapes.items()}

    def _add_slot(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        if self.slot_owners == 1:
            return self.add_variable(shape, dtype="float32", name=name)
        slot = self._add_own(block_shape(shape, self.slot_owners), name)
        slot.whole = WholeSlot(slot, shape)  # checkpoints save this instead
        return slot

    def _add_own(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        """Returns a slot of zeros of this shape, with separate values per replica."""
        with keras.name_scope(self.name, caller=self):  # as add_variable does, which cannot say "on read"
            slot = keras.Variable(
                initializer="zeros",
                shape=shape,
                dtype="float32",
                trainable=False,
                synchronization="on_read",
                aggregation="none",
                name=name,
            )
        self._track_variable(slot)
        return slot

    def state(self) -> dict[str, Any]:
        """Returns the step counter and the slots by name, as checkpoints hold them: split slots are whole."""
        return {variable.path: getattr(variable, "whole", variable.value) for variable in self.variables}

    @property
    def scales_by_weights(self) -> bool:
        """Whether an update depends on the size of the weights, so that ``update`` can use their squares."""
        return False

    def own_squares(self, variables: Sequence[keras.Variable], replica: tf.Tensor, replicas: int) -> tf.Tensor:
        """Returns a replica's share of each sum of squares that ``update`` takes, float32 [number of variables]."""
        with tf.name_scope("update/squares"):
            return tf.stack([own_sum_of_squares(variable.value, replica, replicas) for variable in variables])

    def update(
        self,
        gradients: Sequence[tf.Tensor],
        variables: Sequence[keras.Variable],
        squares: tf.Tensor | None = None,
    ) -> None:
        """Makes one update in the calling replica: every variable and slot, then the step counter.

        Args:
            gradients: One per variable, of its shape, already summed over replicas, averaged and clipped.
            variables: The variables given to ``build``, in any order.
            squares: The sum of each variable's squares, if known; otherwise computed where needed.
        """
        learning_rate = self.learning_rate
        for gradient, variable, scale in zip(gradients, variables, self._scales(variables, squares), strict=True):
            with tf.name_scope(f"update/{variable.path}"):
                self.update_step(gradient, variable, learning_rate, scale)
        self._iterations.assign_add(1)

    def _scales(self, variables: Sequence[keras.Variable], squares: tf.Tensor | None) -> Sequence[tf.Tensor | None]:
        """Returns each variable's ``parameter_scale``, from one root: TensorFlow takes 6 ms to lower each for XLA."""
        if not self.scales_by_weights:
            return [None] * len(variables)
        with tf.name_scope("update/scales"):
            if squares is None:
                means = tf.stack([mean_square(variable.value, variable) for variable in variables])
            else:
                means = squares / [float(real_size(variable)) for variable in variables]
            return tf.unstack(self.parameter_scale(means))

    def update_own_rows(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], replica: tf.Tensor, usable: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Updates the slots of the rows that a replica owns, then the step counter; must be compiled by XLA.

        Args:
            gradients: As ``update`` takes them, of the whole variables, the same on every replica.
            variables: As ``update`` takes them; they are not assigned.
            replica: int32, the number of this replica.
            usable: bool, whether to update; otherwise the old weights are kept.

        Returns:
            1.0 if the update was skipped, else 0.0; and for each variable its new weights in the rows that this replica
            owns, with zeros in all others, to be summed over the replicas.
        """
        replicas = self.slot_owners
        own = [own_rows(gradient, replica, replicas) for gradient in gradients]
        old = [own_rows(tf.convert_to_tensor(variable), replica, replicas) for variable in variables]

        def apply() -> tuple[tf.Tensor, ...]:
            learning_rate = self.learning_rate
            rows = []
            for gradient, weights, variable in zip(own, old, variables, strict=True):
                with tf.name_scope(f"update/{variable.path}"):
                    rows.append(self._new_weights(gradient, weights, variable, learning_rate))
            self._iterations.assign_add(1)
            return tf.constant(0.0), *rows

        skipped, *new = tf.cond(usable, apply, lambda: (tf.constant(1.0), *old))
        return skipped, [placed(rows, v.shape, replica, replicas) for rows, v in zip(new, variables, strict=True)]

    def update_step(
        self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor, scale: tf.Tensor | None = None
    ) -> None:
        """Updates one variable and its slots.

        ``scale`` is the variable's ``parameter_scale``. Keras's own ``apply`` and ``fit`` call this too, with the
        tf.Variable in place of the Keras variable and without ``scale``; it is then computed here if needed.
        """
        if self.slot_owners > 1:
            raise ValueError(f"slots are split over {self.slot_owners} replicas, which only the training step updates")
        keras_variable = self._trainable_variables[self._get_variable_index(variable)]
        gradient = tf.cast(gradient, tf.float32)
        weights = tf.cast(tf.convert_to_tensor(variable), tf.float32)
        variable.assign(self._new_weights(gradient, weights, keras_variable, learning_rate, scale))

    def _new_weights(
        self,
        gradient: tf.Tensor,
        weights: tf.Tensor,
        variable: keras.Variable,
        learning_rate: tf.Tensor,
        scale: tf.Tensor | None = None,
    ) -> tf.Tensor:
        learning_rate = tf.cast(learning_rate, tf.float32)
        if (rate := self.config.rate_of(variable.path, variable.shape)) != self.config.learning_rate:
            learning_rate *= rate / self.config.learning_rate
        scaled_rate = learning_rate
        if self.scales_by_weights:
            scaled_rate *= self.parameter_scale(mean_square(weights, variable)) if scale is None else scale
        change = self.scaled_update(gradient, weights, variable, scaled_rate)
        if self.config.weight_decay and decays(variable.shape):
            change += learning_rate * self.config.weight_decay * weights
        return weights - change

    def scaled_update(
        self, gradient: tf.Tensor, weights: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """Returns the change to subtract from the weights, without weight decay, and assigns the variable's slots.

        If slots are split, gradient, weights and slots are blocks of rows of the variable.
        """
        raise NotImplementedError

    def parameter_scale(self, mean_square: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate's factor for variables whose weights have these mean squares, of any shape."""
        raise NotImplementedError

    def slots(self, variable: keras.Variable) -> dict[str, keras.Variable]:
        """Returns the variable's slots by name."""
        return self._slots[variable.path]

    def updates_done(self) -> tf.Tensor:
        """Returns the number of updates before this one, as a float32 scalar."""
        return tf.cast(tf.convert_to_tensor(self._iterations), tf.float32)

    def slot_bytes(self) -> int:
        """Returns the bytes of all slots on one core, counted from the created variables."""
        return FLOAT32_BYTES * sum(slot.shape.num_elements() for slot in self.variables[1:])  # 0 is the counter

    def effective_rates(self, variables: Sequence[keras.Variable]) -> dict[str, float]:
        """Returns the effective learning rate of each variable at the schedule's highest point, by path.

        Reads the weights, so call it when the run starts, outside the compiled step.
        """
        return {
            v.path: self.config.effective_rate(
                float(tf.math.sqrt(mean_square(tf.convert_to_tensor(v), v))), tuple(v.shape), v.path
            )
            for v in variables
        }

    def in_words(self, variables: Sequence[keras.Variable]) -> str:
        """Returns a line with the bytes of the slots and the effective learning rates at the schedule's peak."""
        rates = self.effective_rates(variables)
        least = min(rates, key=rates.__getitem__)
        highest = max(rates.values())
        down_to = f", down to {rates[least]:.1e} of {least}" if rates[least] < highest else ""
        slots = f"optimizer slots {self.slot_bytes() / 2**20:,.1f} MiB per replica"
        return f"{slots}; effective learning rate {highest:.1e}{down_to}"

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, as plain dictionaries."""
        return {"config": asdict(self.config), "schedule": asdict(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Optimizer":
        """Returns the optimizer that ``get_config`` described."""
        return cls(cls.config_class(**config["config"]), Schedule(**config["schedule"]))


def slot_name(variable: keras.Variable, slot: str) -> str:
    """Returns the name of a variable's slot in a checkpoint, below the optimizer's name."""
    return f"{variable.path.replace('/', '_')}_{slot}"


def real_size(variable: keras.Variable) -> int:
    """Returns the number of elements of a variable without padding."""
    rows = getattr(variable, "logical_rows", None)
    size = variable.shape.num_elements()
    return size if rows is None else size // variable.shape[0] * rows


def mean_square(x: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """Returns the mean of x² over a variable's real elements, a float32 scalar; x is of its shape, 0 in the padding."""
    return tf.reduce_sum(tf.square(x)) / real_size(variable)
