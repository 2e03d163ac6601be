"""Figures of a core of each TPU generation: memory, peak, bandwidth and clock."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation of TPU, by the device that a program sees: a core, or on v4 and v5p a whole chip ("megacore").

    Args:
        cores_per_chip: Such devices on a chip.
        hbm_gib: Advertised memory of a device, in GiB.
        usable_hbm_gib: Memory that the compiler (libtpu 0.0.52) lets one program use, in GiB.
        peak_tflops: bfloat16 matrix multiply of a device, in 10**12 FLOP/s.
        hbm_gbps: Bandwidth to its memory, in 10**9 bytes/s.
        flops_per_cycle: FLOPs of its matrix units per cycle, 2 per cell; the compiler's estimates are in cycles.
        source: The page that states chip figures.
    """

    cores_per_chip: int
    hbm_gib: float
    usable_hbm_gib: float
    peak_tflops: float
    hbm_gbps: float
    flops_per_cycle: int
    source: str

    @property
    def clock_ghz(self) -> float:
        """Clock, in 10**9 cycles/s, at which the matrix units reach their peak."""
        return 1e3 * self.peak_tflops / self.flops_per_cycle


_PAGES = "https://cloud.google.com/tpu/docs/"
GENERATIONS = {
    "v2": Generation(
        cores_per_chip=2,
        hbm_gib=8,
        usable_hbm_gib=7.48,
        peak_tflops=23,
        hbm_gbps=350,
        flops_per_cycle=2**15,
        source=_PAGES + "v2",
    ),
    "v3": Generation(
        cores_per_chip=2,
        hbm_gib=16,
        usable_hbm_gib=15.48,
        peak_tflops=61.5,
        hbm_gbps=450,
        flops_per_cycle=2**16,
        source=_PAGES + "v3",
    ),
    "v4": Generation(
        cores_per_chip=1,
        hbm_gib=32,
        usable_hbm_gib=30.75,
        peak_tflops=275,
        hbm_gbps=1200,
        flops_per_cycle=2**18,
        source=_PAGES + "v4",
    ),
    "v5e": Generation(
        cores_per_chip=1,
        hbm_gib=16,
        usable_hbm_gib=15.75,
        peak_tflops=197,
        hbm_gbps=819,
        flops_per_cycle=2**17,
        source=_PAGES + "v5e",
    ),
    "v5p": Generation(
        cores_per_chip=1,
        hbm_gib=95,
        usable_hbm_gib=95.73,
        peak_tflops=459,
        hbm_gbps=2765,
        flops_per_cycle=2**18,
        source=_PAGES + "v5p",
    ),
    "v6e": Generation(
        cores_per_chip=1,
        hbm_gib=32,
        usable_hbm_gib=31.24,
        peak_tflops=918,
        hbm_gbps=1640,
        flops_per_cycle=2**19,
        source=_PAGES + "v6e",
    ),
}
