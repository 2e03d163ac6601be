"""The blocks' matrices by shape; replicas own them in turn. Imports neither TensorFlow nor Keras."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.weight_specs import matrices_in


class Matrix(NamedTuple):
    """One of the matrices that stand side by side in a variable, from 0."""

    name: str
    number: int


def stacks(shapes: Mapping[str, Sequence[int]]) -> dict[tuple[int, int], list[Matrix]]:
    """Returns the matrices of named variables, keyed by their shape with the shorter axis first.

    Example:
        >>> list(stacks({"query_key_value_kernel": (8, 24), "mlp_output_kernel": (32, 8), "position_table": (16, 8)}))
        [(8, 8), (8, 32)]
    """
    found: dict[tuple[int, int], list[Matrix]] = {}
    for name, shape in shapes.items():
        count = matrices_in(name)
        for number in range(count):
            short, long = sorted((shape[0], shape[1] // count))
            found.setdefault((short, long), []).append(Matrix(name, number))
    return found


def turns(members: Sequence[Matrix], replicas: int) -> int:
    """Returns how many of a stack's matrices each replica has room for: number i is in turn i // R on replica i % R."""
    return -(-len(members) // replicas)
