"""Bytes to store on Cloud Storage, and where the emulator keeps them."""

import google_crc32c
import numpy as np

LARGE = np.random.default_rng(0).bytes((17 << 20) + 12_345)  # three chunks of a resumable upload
SMALL = LARGE[:100_000]  # one request
PUT, POST, SHARD = "PUT", "POST", "gs://corpus/wikitext/train-00000.tfrecord"


def crc(data):
    return google_crc32c.value(data)
