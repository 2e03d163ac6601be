"""The endless order of a part's records: which record is the i-th, by plain arithmetic. Opens no files.

Batch n of global batch B is records nB … nB+B-1. For N records in S shards, N' is the largest multiple of S not above
N, and P = N'/S is what each slot gives per pass:

    epoch e = i // N',   slot = i mod S,   shard = perm(seed, e)[slot],
    row   = (k + rotation(seed, e, shard)) mod (records of the shard)   with   k = (i mod N') // S.

Shards differ by at most one record, so a pass omits one record of each longer shard, a different one each time. A host
h of H (H divides S) reads the slots ≡ h (mod H); hence any number of hosts makes the same global batches.

For a context c that divides the records' context C, a record holds r = C/c sequences, and record i gives its sequence
(e + row) mod r: r passes visit every token once.

``perm`` and ``rotation`` come from ``mix``, a counter-based hash (the finaliser of SplitMix64: Steele, Lea, Flood 2014,
"Fast splittable pseudorandom number generators") of (seed, purpose, epoch, shard), so that they depend on no library's
random generator. This module is the slow reference: record_stream.py computes the same inside the tf.data graph.
"""

from typing import NamedTuple

from pipeline.data.format.manifest import Manifest, Part
from pipeline.errors import UserError

PERMUTATION, ROTATION = 1, 2  # purposes of ``mix``
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = (1 << 64) - 1


class Position(NamedTuple):
    """Where record i of the endless order is: ``row`` counts records from the start of ``shard``."""

    epoch: int
    shard: int
    row: int


def mix(*values: int) -> int:
    """Hashes integers to 63 bits: 0 … 2**63 - 1, which int64 holds too."""
    state = 0
    for value in values:
        state = ((state ^ value) + GOLDEN) & WORD
        state = ((state ^ state >> 30) * FIRST) & WORD
        state = ((state ^ state >> 27) * SECOND) & WORD
        state ^= state >> 31
    return state >> 1


def permutation(seed: int, epoch: int, shards: int) -> list[int]:
    """Returns the shard of each slot in a pass."""
    return sorted(range(shards), key=lambda shard: (mix(seed, PERMUTATION, epoch, shard), shard))


def rotation(seed: int, epoch: int, shard: int, records: int) -> int:
    """Returns the row at which a pass enters a shard of ``records`` records."""
    return mix(seed, ROTATION, epoch, shard) % records


class RecordOrder:
    """The endless order of one part, each of whose shards holds at least one record, by any integer as seed."""

    def __init__(self, part: Part, seed: int):
        self.shard_records = [shard.records for shard in part.shards]
        self.seed = seed & WORD
        self.slots = len(part.shards)
        self.rows_per_pass = min(self.shard_records)  # P
        self.records_per_pass = self.slots * self.rows_per_pass  # N'

    def position(self, i: int) -> Position:
        """Returns the place of record ``i`` ≥ 0."""
        epoch, within = divmod(i, self.records_per_pass)
        k, slot = divmod(within, self.slots)
        shard = permutation(self.seed, epoch, self.slots)[slot]
        records = self.shard_records[shard]
        return Position(epoch, shard, (k + rotation(self.seed, epoch, shard, records)) % records)

    def sequence_of_record(self, i: int, sequences: int) -> int:
        """Returns which of a record's ``sequences`` record ``i`` gives."""
        epoch, _, row = self.position(i)
        return (epoch + row) % sequences


def check_shards(part: Part, name: str) -> None:
    """Rejects a part that has no endless order: a shard without records, or unbalanced shards."""
    records = [shard.records for shard in part.shards]
    if not records or min(records) == 0:
        raise UserError(
            f"part {name!r} has {sum(records)} records in {len(records)} shards; training needs one per shard at "
            f"least: make {max(1, sum(records))} shards or fewer"
        )
    if max(records) - min(records) > 1:
        raise UserError(
            f"part {name!r}: the shards hold {min(records)} to {max(records)} records; expected sizes that differ by 1"
        )


def check_split(manifest: Manifest, part: str, *, hosts: int, replicas: int, global_batch: int, context: int) -> None:
    """Rejects what cannot be spread over the machine. Imports no TensorFlow, so that it runs before connecting.

    ``hosts`` counts the processes that read; ``replicas`` and ``global_batch`` are totals over all of them.

    Raises:
        UserError: fewer shards than hosts, shards that the hosts do not divide, a batch that the replicas do not
            divide, or a context that does not divide the records'; with the numbers and the nearest choices.
    """
    shards = len(manifest.part(part).shards)
    if shards < hosts:
        raise UserError(
            f"part {part!r} has {shards} shards, fewer than the {hosts} hosts, each of which reads shards of its own; "
            f"expected a multiple of {hosts}: shard again with --gin_param=shard.shards={hosts}"
        )
    if shards % hosts:
        fitting = ", ".join(str(h) for h in range(hosts, 0, -1) if shards % h == 0)
        nearest = " or ".join(str(n) for n in (shards // hosts * hosts, -(-shards // hosts) * hosts))
        raise UserError(
            f"{hosts} hosts do not divide the {shards} shards of part {part!r}; expected {nearest} shards, "
            f"or a number of hosts among {fitting}"
        )
    check_shards(manifest.part(part), part)
    check_batch(global_batch, replicas, hosts)
    check_context(manifest.record.context, context)


def check_batch(global_batch: int, replicas: int, hosts: int) -> None:
    """Rejects different numbers of replicas per host, and a batch that the replicas do not divide."""
    if replicas % hosts:
        raise UserError(f"{replicas} replicas are not equally many on each of {hosts} hosts")
    if global_batch < 1 or global_batch % replicas:
        nearest = " or ".join(
            str(n) for n in (global_batch // replicas * replicas, -(-global_batch // replicas) * replicas) if n > 0
        )
        raise UserError(
            f"a global batch of {global_batch} sequences does not divide among {replicas} replicas; "
            f"nearest: {nearest or replicas}"
        )


def check_context(record_context: int, context: int, setting: str = "context") -> None:
    """Rejects a context, given by ``setting``, that does not divide the records' context; names the nearest."""
    if context >= 1 and record_context % context == 0:
        return
    divisors = [c for c in range(1, record_context + 1) if record_context % c == 0]
    nearest = sorted(sorted(divisors, key=lambda c: abs(c - context))[:2])
    raise UserError(
        f"{setting} {context} does not divide the records' context of {record_context} tokens; "
        f"nearest: {' or '.join(map(str, nearest))}"
    )
