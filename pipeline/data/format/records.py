"""Constant records: standard TFRecords to every other tool, rows of one length to us.

A record is one ``tf.train.Example`` with one bytes feature, ``tokens``: ``context + 1`` little-endian uint16 ids. Every
length in it is fixed by the context, so all bytes but the ids and one checksum are the same in every record, and a file
is a matrix: seeking is a multiplication and writing is numpy. Shapes: R records, T = context + 1 tokens.

Layout of a record (2,089 bytes for context 1,024)::

    8 length | 4 masked crc32c of the length | Example header | 2 T ids | 4 masked crc32c of header and ids

Sources: the TFRecord format (tensorflow/core/lib/io/record_writer.h) and the protocol buffer wire format.
"""

from collections.abc import Iterable
from typing import Any

import google_crc32c
import numpy as np

LARGEST_VOCABULARY = 65_536  # ids are uint16
FEATURE = b"tokens"
FRAME_BYTES = 12  # the length and its checksum, before the Example
CHECKSUM_BYTES = 4  # after the Example


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload_bytes: int) -> bytes:
    """The tag and the length before a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(payload_bytes)


def example_header(context: int) -> bytes:
    """Returns the bytes of a serialized Example before its ids."""
    value = _field(1, 2 * (context + 1))  # BytesList.value
    feature = _field(1, len(value) + 2 * (context + 1)) + value  # Feature.bytes_list
    key = _field(1, len(FEATURE)) + FEATURE
    entry = key + _field(2, len(feature) + 2 * (context + 1)) + feature  # map entry: key, value
    features = _field(1, len(entry) + 2 * (context + 1)) + entry  # Features.feature
    return _field(1, len(features) + 2 * (context + 1)) + features  # Example.features


def tokens_offset(context: int) -> int:
    """Bytes from the start of a record to its first id."""
    return FRAME_BYTES + len(example_header(context))


def record_bytes(context: int) -> int:
    """Bytes of a record on disk: 2,089 for context 1,024."""
    return tokens_offset(context) + 2 * (context + 1) + CHECKSUM_BYTES


def mask_crc(crc: Any) -> Any:
    """TFRecord's masked crc32c, or of uint32 [R]; masking keeps a checksum of checksums from being weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_frame(context: int) -> bytes:
    """Returns the beginning of every record of this context: length, its checksum, the Example's header."""
    header = example_header(context)
    length = (len(header) + 2 * (context + 1)).to_bytes(8, "little")
    return length + mask_crc(google_crc32c.value(length)).to_bytes(4, "little") + header


def _payload_checksums(records_RB: np.ndarray) -> np.ndarray:
    """Masked crc32c of every row's Example, uint32 [R]."""
    flat, stride = records_RB.tobytes(), records_RB.shape[1]
    starts = range(FRAME_BYTES, len(flat), stride)
    length = stride - FRAME_BYTES - CHECKSUM_BYTES
    crc32c = google_crc32c.value
    return mask_crc(np.fromiter((crc32c(flat[start : start + length]) for start in starts), np.uint32, len(records_RB)))


def encode(tokens_RT: np.ndarray) -> np.ndarray:
    """Returns the records of uint16 ids [R, context + 1] as in a file: uint8 [R, record_bytes(context)]."""
    if tokens_RT.dtype != np.uint16:
        raise ValueError(f"records hold uint16 ids, not {tokens_RT.dtype}")
    count, context = tokens_RT.shape[0], tokens_RT.shape[1] - 1
    frame = np.frombuffer(record_frame(context), np.uint8)
    records_RB = np.empty((count, record_bytes(context)), np.uint8)
    records_RB[:, : len(frame)] = frame
    ids = np.ascontiguousarray(tokens_RT, "<u2").view(np.uint8)
    records_RB[:, len(frame) : -CHECKSUM_BYTES] = ids
    records_RB[:, -CHECKSUM_BYTES:] = _payload_checksums(records_RB).astype("<u4").view(np.uint8).reshape(-1, 4)
    return records_RB


def decode(data: bytes | np.ndarray, context: int) -> np.ndarray:
    """Reads the ids of whole records and checks only the length; see ``faults`` for the checks.

    Returns:
        uint16 [R, context + 1].

    Raises:
        ValueError: the data are not a whole number of records.
    """
    size = record_bytes(context)
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes | bytearray | memoryview) else data.reshape(-1)
    if len(raw) % size:
        raise ValueError(f"{len(raw)} bytes are not a whole number of records of {size} bytes")
    ids = np.ascontiguousarray(raw.reshape(-1, size)[:, tokens_offset(context) : -CHECKSUM_BYTES])
    return ids.view("<u2").astype(np.uint16, copy=False)


def faults(data: bytes, context: int, vocabulary_size: int) -> Iterable[tuple[str, int]]:
    """Checks whole records.

    Yields:
        (kind of fault, row) for the first row with each kind: ``framing`` (length, its checksum or the Example's
        header), ``checksum`` (of the payload) and ``vocabulary`` (an id that is not below ``vocabulary_size``).
    """
    size = record_bytes(context)
    records_RB = np.frombuffer(data, np.uint8).reshape(-1, size)
    frame = np.frombuffer(record_frame(context), np.uint8)
    stored = np.ascontiguousarray(records_RB[:, -CHECKSUM_BYTES:]).view("<u4").reshape(-1)
    faulty_rows = {
        "framing": (records_RB[:, : len(frame)] != frame).any(axis=1),
        "checksum": stored != _payload_checksums(records_RB),
        "vocabulary": (decode(data, context) >= vocabulary_size).any(axis=1),
    }
    for kind, rows in faulty_rows.items():
        if rows.any():
            yield kind, int(rows.argmax())
