"""Rows become messages in the pipeline's unit, with values where the contract wants them."""

import numpy as np
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import POSTGRES_EPOCH_US, TimestampUnit
from sensorlog_query.aggregates import Aggregate
from sensorlog_query.copy_binary import FLOAT, INTEGER, row_type
from sensorlog_query.microseconds import Moment
from sensorlog_query.replies import Replies, largest_page_bytes
from sensorlog_query.validation import MAX_PAGE_SIZE

SEED_US = Moment(1_646_409_307_000_000)
REPLIES = Replies("s", ("temperature", "cpu"))
OTHERS = Replies("s", ("humidity", "cpu", "pressure"))


def test_temperature_and_cpu_have_fields_and_others_are_in_the_map() -> None:
    """The original clients know only the two fields."""
    assert REPLIES.reading((SEED_US, 1, 30.0, 20.0)) == pb.SensorData(
        ts=1_646_409_307, sensor_id=1, temperature=30, cpu=20
    )
    assert OTHERS.reading((SEED_US, 1, 55.0, 20.0, 1013.0)) == pb.SensorData(
        ts=1_646_409_307, sensor_id=1, cpu=20, measurements={"humidity": 55, "pressure": 1013}
    )


def test_null_is_absent() -> None:
    """Zero is a value, NULL is none."""
    reading = OTHERS.reading((SEED_US, 1, None, None, 0.0))
    assert not reading.HasField("cpu")
    assert dict(reading.measurements) == {"pressure": 0.0}


def test_averages_are_in_fields_and_in_the_map() -> None:
    """The map holds every measurement that has a value."""
    assert REPLIES.average((SEED_US, None, 3, 1.5, None), [Aggregate.AVERAGE]) == pb.SensorAvgData(
        period=1_646_409_307, avg_temp=1.5, count=3, averages={"temperature": 1.5}
    )


def test_latest_values_follow_the_averages() -> None:
    """last_temp is the latest value of the measurement named temperature."""
    row = (SEED_US, 7, 3, 1.5, 2.5, 10.0, None)
    assert REPLIES.average_and_latest(row, [Aggregate.AVERAGE, Aggregate.LAST]) == pb.SensorAvgAndLatestData(
        period=1_646_409_307,
        avg_temp=1.5,
        avg_cpu=2.5,
        last_temp=10.0,
        sensor_id=7,
        count=3,
        averages={"temperature": 1.5, "cpu": 2.5},
        latest={"temperature": 10.0},
    )


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("s", -2), ("ms", -1_001), ("us", -1_000_001), ("ns", -1_000_001_000)],
)
def test_columns_and_messages_count_time_alike(unit: TimestampUnit, expected: int) -> None:
    """Rounded down, also before 1970."""
    replies = Replies(unit, ("cpu",))
    block = np.zeros(1, row_type((INTEGER, INTEGER, FLOAT)))
    block["v0"] = -1_000_001 - POSTGRES_EPOCH_US
    assert list(replies.columns(block, ["cpu"]).ts) == [expected]
    assert replies.reading((Moment(-1_000_001), 1, 0.0)).ts == expected


def test_columns_are_named_in_the_order_asked_for() -> None:
    """Element i of each column belongs to reading i."""
    block = np.zeros(2, row_type((INTEGER, INTEGER, FLOAT, FLOAT)))
    block["v1"], block["v2"], block["v3"] = (1, 2), (10, 20), (100, 200)
    reply = REPLIES.columns(block, ["cpu", "temperature"])
    assert list(reply.sensor_id) == [1, 2]
    assert [(column.name, list(column.values)) for column in reply.columns] == [
        ("cpu", [10.0, 20.0]),
        ("temperature", [100.0, 200.0]),
    ]


def test_the_largest_page_fits_the_limit() -> None:
    """The server's message limit comes from this estimate: it must not be too small, nor useless."""
    names = ("temperature", *(f"a_rather_long_measurement_name_{i}" for i in range(20)))
    row = (Moment(2**53), -1, *(1 / 3 for _ in names))
    page = pb.ListSensorDataReply(results=[Replies("ns", names).reading(row)] * MAX_PAGE_SIZE)
    assert page.ByteSize() <= largest_page_bytes(names) <= 1.5 * page.ByteSize()
