"""Reads the stream of `COPY ... TO STDOUT (FORMAT binary)` into numpy, for rows of 8-byte columns without NULL.

Format: https://www.postgresql.org/docs/17/sql-copy.html ("Binary Format"). Such rows all have one length, so a block
of them is a structured array as it stands: no value is touched by Python code.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import Copy
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER = struct.Struct(f">{len(SIGNATURE)}sii")
TRAILER = b"\xff\xff"
FIELD_BYTES = 8

INTEGER = ">i8"
"""bigint, and timestamptz in microseconds since 2000."""
FLOAT = ">f8"
"""double precision."""

Part = bytes | bytearray | memoryview

AT_ONCE = 1
"""Asks libpq for what is there instead of waiting."""

Block = NDArray[np.void]
"""Rows with the columns' values as fields `v0`, `v1`..., big-endian."""


class CopyFormatError(ValueError):
    """The stream is not what was asked for."""


def row_type(columns: Sequence[str]) -> np.dtype[np.void]:
    """Return the layout of a row: how many fields it has, and each field's length before its value."""
    fields = [part for i, column in enumerate(columns) for part in ((f"length{i}", ">i4"), (f"v{i}", column))]
    return np.dtype([("count", ">i2"), *fields])


def parts(copy: Copy, connection: PGconn) -> Iterator[bytes]:
    """Yield the stream of `copy` in parts of some hundred rows, as much as libpq has read from its socket at once.

    Going over `copy` itself gives the same row by row, at several times the price of all that is done with them.
    Raises what psycopg raises.
    """
    get = connection.get_copy_data
    while first := copy.read():  # waits
        received: list[Part] = [first]
        size, data = get(AT_ONCE)
        while size > 0:
            received.append(data)
            size, data = get(AT_ONCE)
        yield b"".join(received)
        if size < 0:
            _finish(connection)
            return


def _finish(connection: PGconn) -> None:
    """Raise what ended the stream, unless it was its end."""
    results = []
    while result := connection.get_result():
        results.append(result)
    for result in results:
        if result.status != ExecStatus.COMMAND_OK:
            raise error_from_result(result)


def blocks(data: Iterable[Part], columns: Sequence[str], rows_per_block: int) -> Iterator[Block]:
    """Yield the rows of a COPY stream in blocks of `rows_per_block`, the last one shorter.

    `data` may be cut anywhere. Not much more than one block is held. CopyFormatError where it is something else.
    """
    layout = row_type(columns)
    wanted = layout.itemsize * rows_per_block
    parts = iter(data)
    held = _after_header(parts)
    for part in parts:
        held += part
        while len(held) >= wanted + len(TRAILER):
            yield _rows(bytes(held[:wanted]), layout, len(columns))
            del held[:wanted]
    yield from _rest(held, layout, len(columns), rows_per_block)


def _after_header(parts: Iterator[Part]) -> bytearray:
    held = bytearray()
    while len(held) < HEADER.size:
        try:
            held += next(parts)
        except StopIteration:
            raise CopyFormatError("the stream ends in its header") from None
    if HEADER.unpack_from(held) != (SIGNATURE, 0, 0):
        raise CopyFormatError("the stream does not begin with the header of COPY BINARY")
    del held[: HEADER.size]
    return held


def _rest(held: bytearray, layout: np.dtype[np.void], columns: int, rows_per_block: int) -> Iterator[Block]:
    if not held.endswith(TRAILER):
        raise CopyFormatError("the stream ends without the trailer of COPY BINARY")
    rows = _rows(bytes(held[: -len(TRAILER)]), layout, columns)
    for start in range(0, len(rows), rows_per_block):
        yield rows[start : start + rows_per_block]


def _rows(buffer: bytes, layout: np.dtype[np.void], columns: int) -> Block:
    if len(buffer) % layout.itemsize:
        raise CopyFormatError("the stream ends within a row")
    rows = np.frombuffer(buffer, layout)
    if not np.all(rows["count"] == columns):
        raise CopyFormatError(f"a row does not have {columns} columns")
    for i in range(columns):
        if not np.all(rows[f"length{i}"] == FIELD_BYTES):
            raise CopyFormatError(f"column {i} has a value that is not {FIELD_BYTES} bytes long")
    return rows
