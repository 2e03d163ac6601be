"""A share of the peak is at most 1."""

from pipeline.training.runtime.peak import Peak


def test_no_rate_passes_the_peak():
    measured = iter([250.0, 10.0])
    peak = Peak(100.0, lambda: next(measured))
    assert peak.share(50.0) == 0.5
    assert peak.share(125.0) == 0.5, "the machine was busy: the peak is measured again"
    assert peak.share(500.0) == 1.0, "busy again: the best rate is the peak"
    assert peak.share(250.0) == 0.5 and next(measured, None) is None
    assert Peak(100.0).share(125.0) == 1.0
