"""Encoding: what PostgreSQL would read from the COPY document is what was put in."""

import math
import struct
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.timestamps import POSTGRES_EPOCH_US
from sensorlog_ingest.encode import encode
from sensorlog_ingest.readings import Readings, concatenate, no_readings

Row = tuple[int, int, tuple[float | None, ...]]


def columns(rows: list[Row], measurements: int) -> Readings:
    """Return rows of (time_us, sensor_id, values) as columns."""
    return Readings(
        np.array([time for time, _, _ in rows], np.int64),
        np.array([sensor for _, sensor, _ in rows], np.int64),
        np.array([values for _, _, values in rows], np.float64).reshape(len(rows), measurements).T,
        np.zeros(len(rows), np.int32),
        np.arange(len(rows), dtype=np.int32),
    )


def parse_copy(view: memoryview) -> Iterator[Row]:
    """Read PostgreSQL's binary COPY format as its manual describes it, independently of the encoder."""
    document = bytes(view)
    assert document[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    at = 19
    while (count := struct.unpack_from(">h", document, at)[0]) != -1:
        at += 2
        fields: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", document, at)
            at += 4
            fields.append(None if length == -1 else document[at : at + length])
            at += max(length, 0)
        time, sensor, *values = fields
        assert time is not None
        assert sensor is not None
        yield (
            struct.unpack(">q", time)[0] + POSTGRES_EPOCH_US,
            struct.unpack(">q", sensor)[0],
            tuple(None if value is None else struct.unpack(">d", value)[0] for value in values),
        )
    assert at + 2 == len(document)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, list[Row]]:
    """Draw a number of measurements and rows of that many."""
    measurements = draw(st.integers(1, 5))
    value = st.none() | st.floats(allow_nan=False)
    row = st.tuples(st.integers(0, 2**60), st.integers(-(2**63), 2**63 - 1), st.tuples(*[value] * measurements))
    return measurements, draw(st.lists(row, max_size=20))


@given(tables())
def test_encoded_rows_read_back(table: tuple[int, list[Row]]) -> None:
    """Times, sensors, values and NULLs survive, in order."""
    measurements, rows = table
    assert list(parse_copy(encode(columns(rows, measurements)))) == rows


def test_rows_sort_by_sensor_then_latest_first() -> None:
    """The order is that of the table's index, and every column follows."""
    rows: list[Row] = [(3, 2, (1.0,)), (1, 2, (2.0,)), (2, 1, (None,))]
    ordered = columns(rows, 1).sorted()
    assert list(parse_copy(encode(ordered))) == [rows[2], rows[0], rows[1]]
    assert ordered.position.tolist() == [2, 0, 1]


def test_parts_concatenate_in_order() -> None:
    """Fetches of one batch follow each other; messages are counted on."""
    one, two = columns([(1, 1, (1.0,))], 1), columns([(2, 2, (math.nan,))], 1).moved(5)
    both = concatenate([one, no_readings(1), two])
    assert both.sensor_id.tolist() == [1, 2]
    assert both.message.tolist() == [0, 5]
