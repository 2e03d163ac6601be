"""Paths on a local disk and on ``gs://``, with the few operations that a data set and a run need."""
# ruff: noqa: F401  (imported for all other modules)

from pipeline.storage.disk import check_file, check_space, check_writable, nearest_existing
from pipeline.storage.read import file_crc32c, is_empty, is_remote, join, list_files, open_read, read_bytes, size
from pipeline.storage.write import (
    PARTIAL,
    delete_files,
    partial_file,
    publish,
    publish_bytes,
    remove_partial,
    replace_bytes,
    sync,
    sync_path,
)
