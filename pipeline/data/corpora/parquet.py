"""Parquet files: one document per row, its text in one column, read row group by row group."""

import bisect
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.data.corpora.base import Corpus, Document, Dropped, Input
from pipeline.data.corpora.listing import File, find
from pipeline.data.corpora.text import part_of_file
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError, nearest, pip_install

ROWS = 256  # rows in memory at a time
LARGEST_ROW = 64 << 20  # bytes: a value is held whole, so longer ones are dropped and counted


class Parquet(Corpus):
    """*.parquet of a directory, or the files that a path or a glob names.

    An input's range counts rows, not bytes, and begins with a row group.
    """

    def __init__(self, config: ShardConfig, source: str | None):
        files, notes = find(source, (".parquet",), config.name)
        self._inputs = [group for file in files for group in self._row_groups(config, file)]
        super().__init__(config, [(file.name, file.size) for file in files], notes=notes)
        self.own_parts = config.validation_fraction is None
        self.total_bytes = self.text_bytes = sum(size for _, size in self._inputs)

    @staticmethod
    def _row_groups(config: ShardConfig, file: File) -> Iterator[tuple[Input, int]]:
        part = part_of_file(config, file)
        with _opened(file.path) as table:
            names = table.schema_arrow.names
            if config.field not in names:
                near = nearest(config.field, names)
                raise UserError(f"{file.path} has no column {config.field!r}; it has {', '.join(names)}{near}")
            if names.count(config.field) > 1:
                raise UserError(f"{file.path} has {names.count(config.field)} columns {config.field!r}; expected one")
            kind = table.schema_arrow.field(config.field).type
            values = kind.value_type if str(kind).startswith("dictionary<") else kind
            if str(values) not in ("string", "large_string", "string_view"):
                raise UserError(f"{file.path}: column {config.field!r} holds {kind}, not text")
            schema = table.metadata.schema
            column = [schema.column(i).path for i in range(len(schema))].index(config.field)
            row = 0
            for group in range(table.metadata.num_row_groups):
                described = table.metadata.row_group(group)
                rows, size = described.num_rows, described.column(column).total_uncompressed_size
                if rows:
                    yield Input(file.path, file.name, row, row + rows, part), size
                row += rows

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        import pyarrow as pa

        with _opened(item.path) as table:
            try:
                yield from self._rows(table, item)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{item.path} is corrupt near row {item.start}: {reason}") from error

    def _rows(self, table: Any, item: Input) -> Iterator[Document | Dropped]:
        groups = range(table.metadata.num_row_groups)
        starts = [0, *accumulate(table.metadata.row_group(group).num_rows for group in groups)]
        row, group = item.start, bisect.bisect_right(starts, item.start) - 1
        batches = table.iter_batches(ROWS, row_groups=[group], columns=[self.config.field], use_threads=False)
        for batch in batches:
            for value in _values(batch.column(0)):
                identity = f"{item.name}#{row}"
                row += 1
                if value is None:
                    yield Dropped(identity, "empty", item.part)
                elif len(value) > LARGEST_ROW:
                    fault = f"{item.name} has {len(value):,} bytes in row {row - 1}"
                    yield Dropped(identity, f"a row over {LARGEST_ROW >> 20} MiB", item.part, fault)
                else:
                    yield self.from_bytes(identity, value, item.part)


def _values(column: Any) -> Iterator[memoryview | None]:
    """Yields the UTF-8 of a column's rows from Arrow's buffers: value by value, pyarrow is ten times slower.

    Source: the Arrow columnar format, variable-size binary layout.
    """
    kind = str(column.type)
    if kind not in ("string", "large_string"):
        kind, column = "large_string", column.cast("large_string")
    validity, offsets, data = column.buffers()
    stop = column.offset + len(column)
    ends = np.frombuffer(offsets, "<i8" if kind == "large_string" else "<i4")[column.offset : stop + 1].tolist()
    valid = (
        np.ones(stop, bool) if validity is None else np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    )
    text = memoryview(data if data is not None else b"")
    for is_valid, (start, end) in zip(valid[column.offset : stop].tolist(), pairwise(ends), strict=True):
        yield text[start:end] if is_valid else None


def _opened(path: str) -> Any:
    """Opens a Parquet file; UserError if it is not one."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"Parquet sources need the package pyarrow: {pip_install('-r requirements.txt')}") from error
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    try:
        return pq.ParquetFile(storage.open_read(path), pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is truncated or not a Parquet file: {str(error).splitlines()[0]}") from error
