"""The peak of a run's devices, the denominator of MFU."""

from collections.abc import Callable


class Peak:
    """A peak in FLOP/s, which no rate exceeds.

    Args:
        flops: stated, or as measured.
        again: measures once more, if a rate shows that other programs slowed the first measurement.
    """

    def __init__(self, flops: float, again: Callable[[], float] | None = None):
        self.flops, self._again = flops, again

    def share(self, flops: float) -> float:
        """Returns a rate's share, at most 1: a higher rate is the peak from then on."""
        if flops > self.flops and self._again:
            self.flops = max(self.flops, self._again())
        self.flops = max(self.flops, flops)
        return flops / self.flops
