"""The quickstart's closing table says what its run reached, also of a run from before a figure was renamed."""

import pytest

from tools.quickstart import table


@pytest.mark.parametrize("name", ["mfu", "share_of_matmul_peak"])
def test_the_share_of_peak_is_read_under_both_of_its_names(name):
    summary = {
        "parameters": 7,
        "tokens_seen": 640,
        "steps": 10,
        "train": {"nats_per_token": 4.0, "tokens_per_second": 100.0, name: 0.31},
        "validation": {"nats_per_token": 4.5, "bits_per_byte": 1.7},
        "baseline": {
            "unigram_nats_per_token": 6.0,
            "unigram_bits_per_byte": 2.5,
            "bz2_bits_per_byte": 1.6,
            "xz_bits_per_byte": 1.5,
        },
    }
    assert "share of peak     31% of this machine's float32 matrix multiply" in table(summary)
