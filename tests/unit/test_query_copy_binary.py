"""COPY BINARY streams become arrays, whichever way they are cut, and other streams are refused."""

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog_query.copy_binary import FLOAT, HEADER, INTEGER, SIGNATURE, TRAILER, CopyFormatError, blocks

COLUMNS = (INTEGER, INTEGER, FLOAT)
INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(INT64, INT64, st.floats(allow_nan=False)), max_size=50)
HEAD = HEADER.pack(SIGNATURE, 0, 0)
Row = tuple[int, int, float]


def encoded(rows: list[Row]) -> bytes:
    """Return the stream that PostgreSQL sends for `rows`, by the manual's description of it."""
    body = b"".join(struct.pack(">hiqiqid", 3, 8, time, 8, sensor, 8, value) for time, sensor, value in rows)
    return HEAD + body + TRAILER


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    """Yield `stream` in pieces of `size`."""
    for start in range(0, len(stream), size):
        yield stream[start : start + size]


@given(ROWS, st.integers(1, 200), st.integers(1, 20))
def test_every_row_comes_out_once_and_in_order(rows: list[Row], piece: int, rows_per_block: int) -> None:
    """Wherever the network cuts the stream; no block is longer than asked for, none is empty."""
    out = list(blocks(cut(encoded(rows), piece), COLUMNS, rows_per_block))
    assert [row for block in out for row in zip(*(block[f"v{i}"].tolist() for i in range(3)), strict=True)] == rows
    assert all(len(block) == rows_per_block for block in out[:-1])
    assert all(1 <= len(block) <= rows_per_block for block in out)


@given(ROWS, st.integers(1, 200), st.data())
def test_a_stream_that_ends_early_is_an_error(rows: list[Row], piece: int, data: st.DataObject) -> None:
    """Half a table must not look like a table."""
    stream = encoded(rows)
    short = stream[: data.draw(st.integers(0, len(stream) - 1))]
    with pytest.raises(CopyFormatError):
        list(blocks(cut(short, piece), COLUMNS, 10_000))


def test_nan_stays_nan() -> None:
    """NaN stands for NULL on its way out."""
    [block] = blocks([encoded([(1, 2, float("nan"))])], COLUMNS, 10)
    assert np.isnan(block["v2"]).all()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "ends in its header"),
        (b"time,sensor_id,cpu\n1,2,3\n4,5,6\n", "does not begin with the header"),
        (HEAD + struct.pack(">hiqiq", 2, 8, 1, 8, 2) + TRAILER, "ends within a row"),
        (HEAD + struct.pack(">hiqiqid", 2, 8, 1, 8, 2, 8, 0) + TRAILER, "does not have 3 columns"),
        (HEAD + struct.pack(">hiqiqid", 3, 8, 1, 8, 2, -1, 0) + TRAILER, "column 2 has a value"),
    ],
)
def test_a_stream_of_another_shape_is_refused(stream: bytes, message: str) -> None:
    """Better no export than columns of noise."""
    with pytest.raises(CopyFormatError, match=message):
        list(blocks([stream], COLUMNS, 10))
