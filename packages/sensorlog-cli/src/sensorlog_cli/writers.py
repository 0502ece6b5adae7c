"""Exported readings as bytes of a file format, block by block: no writer holds more than a few blocks.

Each takes blocks, of which there is at least one, and a file to write to. What was written when a writer is
interrupted is a beginning; whoever gave the file sees to it that it is not taken for the whole.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from io import StringIO
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sensorlog.client import Block
from sensorlog.client.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 16 * 1024 * 1024
"""A row group of Parquet is gathered in memory before it is written: large ones compress and read better."""


class Format(StrEnum):
    """How exported readings are written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def is_binary(self) -> bool:
        """Whether no person can read it, and a terminal should not get it."""
        return self in (Format.PARQUET, Format.ARROW)


Writer = Callable[[Iterable[Block], BinaryIO], None]


def writer_of(form: Format) -> Writer:
    """Return the writer of `form`; MissingExtraError where it needs pyarrow, which is not installed."""
    if form.is_binary:
        require("pyarrow", "arrow")
    return _WRITERS[form]


def write_csv(blocks: Iterable[Block], sink: BinaryIO) -> None:
    """Write CSV with a header: time in ISO 8601 with Z, sensor_id, measurements; NULL is empty."""
    for number, block in enumerate(blocks):
        text = StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        if number == 0:
            lines.writerow(["time", "sensor_id", *block.columns])
        times = np.datetime_as_string(block.time, unit=block.unit, timezone="UTC").tolist()
        lines.writerows(zip(times, block.sensor_id.tolist(), *map(_values, block.columns.values()), strict=True))
        sink.write(text.getvalue().encode())


def write_jsonl(blocks: Iterable[Block], sink: BinaryIO) -> None:
    """Write one JSON object a line, in the form that `publish` takes; NULL is left out."""
    for block in blocks:
        if len(block):
            # A block's rows as one document, which is thrice as fast. No name and no number has a brace in it.
            rows = json.dumps(_rows(block))[1:-1].replace("}, {", "}\n{")
            sink.write(f"{rows}\n".encode())


def write_parquet(blocks: Iterable[Block], sink: BinaryIO) -> None:
    """Write Parquet in row groups of ROW_GROUP_BYTES. Times in seconds become milliseconds, which Parquet has."""
    arrow, parquet = require("pyarrow", "arrow"), require("pyarrow.parquet", "arrow")
    groups = (arrow.Table.from_batches(batches) for batches in _groups(_batches(blocks)))
    first = next(groups)
    # Closed only when all is there: closing writes the footer, which makes a whole file of what is in it.
    file = parquet.ParquetWriter(sink, first.schema, compression="zstd")
    for group in chain([first], groups):
        file.write_table(group, row_group_size=max(1, group.num_rows))
    file.close()


def write_arrow(blocks: Iterable[Block], sink: BinaryIO) -> None:
    """Write an Arrow IPC stream, a record batch for each block."""
    arrow = require("pyarrow", "arrow")
    batches = _batches(blocks)
    first = next(batches)
    stream = arrow.ipc.new_stream(sink, first.schema)  # closed as Parquet is
    for batch in chain([first], batches):
        stream.write_batch(batch)
    stream.close()


def _batches(blocks: Iterable[Block]) -> "Iterator[pa.RecordBatch]":
    from sensorlog.client.arrow import record_batch  # noqa: PLC0415 -- needs pyarrow

    return map(record_batch, blocks)


def _groups(batches: "Iterator[pa.RecordBatch]") -> "Iterator[list[pa.RecordBatch]]":
    """Yield batches in groups of ROW_GROUP_BYTES."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(each.nbytes for each in group) >= ROW_GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _values(column: Any) -> list[float | None]:
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124 -- NaN


def _rows(block: Block) -> list[dict[str, Any]]:
    names = ("ts", "sensor_id", *block.columns)
    columns = [column.tolist() for column in (block.ts, block.sensor_id, *block.columns.values())]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    for name, values in block.columns.items():
        for row in np.flatnonzero(np.isnan(values)).tolist():
            del rows[row][name]
    return rows


_WRITERS: dict[Format, Writer] = {
    Format.CSV: write_csv,
    Format.JSONL: write_jsonl,
    Format.PARQUET: write_parquet,
    Format.ARROW: write_arrow,
}
