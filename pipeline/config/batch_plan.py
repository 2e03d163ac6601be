"""Batch arithmetic: global batch = replicas × accumulation × microbatch."""

import dataclasses
import math

from pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The split of one optimizer step's batch; all figures count sequences except ``tokens_per_step``."""

    global_batch: int
    replicas: int
    accumulation: int
    microbatch: int
    context: int

    @property
    def per_replica(self) -> int:
        """Sequences per replica and step."""
        return self.accumulation * self.microbatch

    @property
    def tokens_per_step(self) -> int:
        """Tokens of all replicas per step."""
        return self.global_batch * self.context


def divisors(number: int) -> list[int]:
    """Returns the divisors of a number, ascending: the microbatches that split a replica's sequences evenly."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def plan(*, global_batch: int, replicas: int, microbatch: int, context: int) -> BatchPlan:
    """Returns the plan; UserError names the nearest valid batches if the global batch does not divide."""
    unit = replicas * microbatch
    if global_batch % unit == 0:
        return BatchPlan(global_batch, replicas, global_batch // unit, microbatch, context)
    below, above = global_batch // unit * unit, -(-global_batch // unit) * unit
    batches = " or ".join(str(batch) for batch in (below, above) if batch)
    choice = f"train.global_batch = {batches}"
    if global_batch % replicas == 0:
        share = global_batch // replicas
        fitting = divisors(share)
        nearest = [*[m for m in fitting if m < microbatch][-1:], *[m for m in fitting if m > microbatch][:1]]
        choice += f", or train.microbatch = {' or '.join(map(str, nearest))}"
    raise UserError(
        f"train.global_batch = {global_batch} does not divide into {replicas} replicas × microbatch {microbatch}; "
        f"nearest: {choice}"
    )
