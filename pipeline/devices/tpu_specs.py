"""Figures of a core of each TPU generation: memory, peak, bandwidth and clock."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """One generation of TPU, by the device that a program sees: a core, or on v4 and v5p a whole chip ("megacore").

    Args:
        cores_per_chip: Such devices on a chip.
        hbm_gib: Advertised memory of a device, in GiB.
        usable_hbm_gib: Memory that the compiler (libtpu 0.0.52) lets one program use, in GiB.
        peak_tflops: bfloat16 matrix multiply of a device, in 10**12 FLOP/s.
        hbm_gbps: Bandwidth to its memory, in 10**9 bytes/s.
        flops_per_cycle: FLOPs of its matrix units per cycle, 2 per cell; the compiler's estimates are in cycles.
        matrix_unit: Rows and columns of a matrix unit; narrower products leave a part of it idle.
        source: The page that states chip figures.
    """

    cores_per_chip: int
    hbm_gib: float
    usable_hbm_gib: float
    peak_tflops: float
    hbm_gbps: float
    flops_per_cycle: int
    matrix_unit: int
    source: str

    @property
    def clock_ghz(self) -> float:
        """Clock, in 10**9 cycles/s, at which the matrix units reach their peak."""
        return 1e3 * self.peak_tflops / self.flops_per_cycle


_PAGES = "https://cloud.google.com/tpu/docs/"
GENERATIONS = {  # the fields in their order above
    "v2": Generation(2, 8, 7.48, 23, 350, 2**15, 128, _PAGES + "v2"),
    "v3": Generation(2, 16, 15.48, 61.5, 450, 2**16, 128, _PAGES + "v3"),
    "v4": Generation(1, 32, 30.75, 275, 1200, 2**18, 128, _PAGES + "v4"),
    "v5e": Generation(1, 16, 15.75, 197, 819, 2**17, 128, _PAGES + "v5e"),
    "v5p": Generation(1, 95, 95.73, 459, 2765, 2**18, 128, _PAGES + "v5p"),
    "v6e": Generation(1, 32, 31.24, 918, 1640, 2**19, 256, _PAGES + "v6e"),
}
