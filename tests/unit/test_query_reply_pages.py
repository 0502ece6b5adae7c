"""Pages are made of the database's bytes at once, and hold the same messages as if each were made by itself."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import POSTGRES_EPOCH_US, TimestampUnit
from sensorlog_query import packed_rows
from sensorlog_query.microseconds import Moment
from sensorlog_query.packed_rows import NULL
from sensorlog_query.readings import Row
from sensorlog_query.replies import Replies

INT64 = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.integers(-(10**15), 10**15).map(Moment)
NUMBER = st.none() | st.floats(allow_nan=False)
NAMES = [("temperature", "cpu"), ("cpu",), ("humidity", "temperature"), ("a", "b", "c" * 63), ("x" * 63, "y" * 200)]


def packed(rows: list[Row]) -> bytes:
    """Return rows as the database packs them."""
    return b"".join(_packed(*row) for row in rows)


def _packed(time: Moment, sensor_id: int, *values: float | None) -> bytes:
    fields = (struct.pack(">Q", NULL) if value is None else struct.pack(">d", value) for value in values)
    return struct.pack(">qq", time - POSTGRES_EPOCH_US, sensor_id) + b"".join(fields)


@pytest.mark.parametrize("unit", ["s", "ns"])
@pytest.mark.parametrize("names", NAMES)
@given(data=st.data())
def test_a_page_is_made_of_the_messages_of_its_rows(
    names: tuple[str, ...], unit: TimestampUnit, data: st.DataObject
) -> None:
    """Whichever measurements have fields of their own, NULLs included, and to the byte."""
    rows = data.draw(st.lists(st.tuples(MOMENTS, INT64, *(NUMBER for _ in names))))
    replies = Replies(unit, names)
    page = pb.ListSensorDataReply.FromString(replies.readings(packed_rows.unpacked(packed(rows), len(names))))
    expected = pb.ListSensorDataReply(results=map(replies.reading, rows))
    assert page == expected
    assert page.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_a_stored_nan_is_a_value() -> None:
    """Ingest lets none in, but who writes by himself may; only NULL is absent."""
    block = packed_rows.unpacked(packed([(Moment(0), 1, float("nan"), None)]), 2)
    reading = pb.ListSensorDataReply.FromString(Replies("s", ("temperature", "cpu")).readings(block)).results[0]
    assert np.isnan(reading.temperature)
    assert not reading.HasField("cpu")


@pytest.mark.parametrize("sensors", [256, 2**62])
def test_many_measurements_fit_a_row(sensors: int) -> None:
    """As many as a pipeline may have, each with the longest name."""
    names = tuple(f"{i:063}" for i in range(256))
    replies = Replies("us", names)
    rows: list[Row] = [(Moment(i), -sensors, *(None if j % 7 == i else float(j) for j in range(256))) for i in range(3)]
    page = pb.ListSensorDataReply.FromString(replies.readings(packed_rows.unpacked(packed(rows), len(names))))
    assert page == pb.ListSensorDataReply(results=map(replies.reading, rows))


@given(st.lists(st.tuples(st.integers(0, 2).map(Moment), st.integers(0, 1)), min_size=1), st.integers(0, 5))
def test_the_end_of_a_page_is_counted_by_its_key(keys: list[tuple[Moment, int]], parts: int) -> None:
    """How many rows at the end have the last one's time and sensor, wherever the page was put together; NULLs stay."""
    rows: list[Row] = [(time, sensor, None if sensor else 1.0) for time, sensor in keys]
    cut = len(rows) * parts // 5
    blocks = [packed_rows.unpacked(packed(part), 1) for part in (rows[:cut], rows[cut:])]
    block = packed_rows.joined(blocks, 1)
    assert packed_rows.nulls(block).tolist() == [[bool(sensor)] for _, sensor in keys]
    assert packed_rows.last_key(block) == keys[-1]
    count = packed_rows.trailing(block)
    assert keys[len(keys) - count :] == [keys[-1]] * count
    assert count == len(keys) or keys[-count - 1] != keys[-1]


def test_no_rows_are_an_empty_block() -> None:
    """The database makes NULL of them."""
    assert len(packed_rows.unpacked(None, 2)) == len(packed_rows.joined([], 2)) == 0
    assert Replies("s", ("a", "b")).readings(packed_rows.unpacked(None, 2)) == b""
