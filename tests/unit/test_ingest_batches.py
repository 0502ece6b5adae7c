"""Batches close on rows, bytes or age, and remember where everything came from."""

import pytest

from sensorlog.pipeline import BatchConfig, KafkaConfig, PipelineConfig
from sensorlog_ingest import batches
from sensorlog_ingest.batches import Advance, BatchBuilder, latest_of_each, portions
from sensorlog_ingest.messages import Partition
from sensorlog_ingest.rejections import Reason, Rejection
from sensorlog_ingest.schema_types import Sensor
from sensorlog_ingest.sensors import SensorRow
from support.messages import FakeMessage, json_message

NOW = 1_700_000_000.0
SENSORS = "logger.sensor.instance"


def builder(**batch: int) -> BatchBuilder:
    """Return a builder of a default pipeline with these limits."""
    kafka = KafkaConfig(bootstrap_servers="b", group_id="g")
    return BatchBuilder(PipelineConfig(namespace="n", name="p", db_schema="s", kafka=kafka, batch=BatchConfig(**batch)))


def readings(count: int, start: int = 0) -> FakeMessage:
    """Return a message of `count` readings."""
    return json_message([{"ts": start + i, "sensor_id": i} for i in range(count)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the monotonic time, to be changed."""
    now = [100.0]
    monkeypatch.setattr("sensorlog_ingest.batches.time.monotonic", lambda: now[0])
    return now


def test_empty_batch_is_never_due(clock: list[float]) -> None:
    """Time alone does not close a batch."""
    subject = builder()
    clock[0] += 1000
    assert not subject.is_due()


def test_batch_is_due_when_it_is_full_of_rows() -> None:
    """The row limit closes a batch as soon as the next message would not fit."""
    subject = builder(max_rows=30, max_delay_ms=60_000)
    subject.add([readings(10), readings(10)], NOW)
    assert not subject.is_due()
    assert subject.fetch_size() == 1
    subject.add([readings(10)], NOW)
    assert subject.is_due()


def test_batch_is_due_when_it_is_full_of_bytes() -> None:
    """Broken messages fill a batch as well: their values are kept until the commit."""
    subject = builder(max_bytes=1024, max_delay_ms=60_000)
    subject.add([FakeMessage(b"x" * 600)], NOW)
    assert subject.is_due()


def test_batch_is_due_when_it_is_old(clock: list[float]) -> None:
    """A single reading waits for the maximal delay and no longer, and a fetch does not wait beyond it."""
    subject = builder(max_delay_ms=250)
    assert subject.seconds_left() == 0.25
    subject.add([readings(1)], NOW)
    clock[0] += 0.2
    assert subject.seconds_left() == pytest.approx(0.05)
    assert not subject.is_due()
    clock[0] += 0.1
    assert subject.is_due()


def test_fetches_are_sized_by_what_messages_were_like() -> None:
    """Large messages are fetched in small numbers, so that memory stays bounded."""
    subject = builder(max_bytes=1_000_000, max_rows=50_000)
    assert subject.fetch_size() == batches.FIRST_FETCH
    subject.add([FakeMessage(b"x" * 100_000)], NOW)
    assert subject.fetch_size() == 9
    subject.clear()
    subject.add([readings(1)], NOW)
    assert subject.fetch_size() == batches.FETCH_ROWS


def test_batch_holds_what_was_added() -> None:
    """Rows are sorted, and rejections of later fetches are those of the right messages."""
    subject = builder()
    bad = FakeMessage(b"bad", the_offset=8)
    advances = {Partition("logger.sensor.ts", 0): Advance(0, 9)}
    subject.add([json_message({"ts": 2, "sensor_id": 2})], NOW)
    subject.add([json_message({"ts": 1, "sensor_id": 1}), bad], NOW)
    subject.add([json_message({"id": 1}, the_topic=SENSORS), FakeMessage(None, the_topic=SENSORS)], NOW)
    batch = subject.build(advances, epoch=3)
    assert batch.readings.sensor_id.tolist() == [1, 2]
    assert batch.readings.message.tolist() == [1, 0]
    assert batch.newest_us == 2_000_000
    assert batch.messages == 5
    assert [row.sensor for row in batch.sensors] == [Sensor(id=1)]
    letters = batch.dead_letters(more_readings={}, more_sensors={})
    assert [(letter.topic, letter.offset, letter.reason) for letter in letters] == [
        ("logger.sensor.ts", 8, Reason.NOT_JSON),
        (SENSORS, 0, Reason.EMPTY_VALUE),
    ]
    assert subject.is_empty


def test_one_dead_letter_holds_what_decoder_and_database_refused() -> None:
    """The primary key allows one per message."""
    subject = builder()
    subject.add([json_message([{"ts": 1, "sensor_id": 1}, {}, {"ts": 3, "sensor_id": 3}])], NOW)
    batch = subject.build({}, epoch=0)
    refused = {0: [Rejection(Reason.DATABASE_REJECTED, "SQLSTATE 23514: no", 2)]}
    (letter,) = batch.dead_letters(more_readings=refused, more_sensors={})
    assert letter.reason == Reason.MISSING_TS
    assert letter.value == b'[{},{"ts": 3, "sensor_id": 3}]'
    assert letter.detail.splitlines()[1] == "reading 2: database_rejected: SQLSTATE 23514: no"


def test_last_announcement_of_a_sensor_counts() -> None:
    """One statement must not touch a row twice; ids are in order, so that two processes do not deadlock."""
    rows = [SensorRow(0, 0, Sensor(5, "a")), SensorRow(1, 0, Sensor(1, "b")), SensorRow(2, 0, Sensor(5, "c"))]
    assert [row.sensor.type for row in latest_of_each(rows)] == ["b", "c"]


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([3, 3, 3], [(0, 3)]),
        ([4, 4, 4, 4], [(0, 2), (2, 4)]),
        ([50], [(0, 1)]),
        ([1, 50, 1], [(0, 1), (1, 2), (2, 3)]),
        ([50, 50, 9], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_large_messages_are_decoded_in_portions(sizes: list[int], runs: list[tuple[int, int]]) -> None:
    """What is decoded in one go is bounded, but for a message that is larger by itself."""
    assert list(portions(sizes, 10)) == runs
