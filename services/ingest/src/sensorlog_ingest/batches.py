"""What is written in one transaction, and how it is collected: a batch closes on rows, bytes or age."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sensorlog.pipeline import BatchConfig, PipelineConfig
from sensorlog_ingest import canaries
from sensorlog_ingest.canaries import Canary
from sensorlog_ingest.dead_letters import DeadLetter, dead_letter
from sensorlog_ingest.decode import ReadingDecoder
from sensorlog_ingest.encode import encode
from sensorlog_ingest.messages import Message, Partition
from sensorlog_ingest.readings import Readings, concatenate, no_readings
from sensorlog_ingest.rejections import Rejections
from sensorlog_ingest.sensors import SensorDecoder, SensorRow

FETCH_ROWS = 2_500
"""Rows, as far as can be told before, that are taken from librdkafka and decoded in one go.

Single calls into C, which keep the interpreter's lock, so take less than a millisecond, and the writer is not kept
waiting for it; larger ones would save next to nothing.
"""

FIRST_FETCH = 1
"""Messages taken in the first call, when nothing is known of their size."""

DECODE_BYTES = 4 * 1024 * 1024
"""Bytes of values that are decoded in one go: while that lasts they take several times their size in memory."""


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a batch moves a partition: the stored next_offset it builds on, and the one it leaves."""

    seen: int
    next: int


@dataclass(slots=True)
class Batch:
    """Rows and offsets of one transaction. Rejections are by index of the message in the list beside them.

    `copy` is the readings as a COPY document. `opened_at` is time.monotonic() of the first message's arrival.
    """

    epoch: int
    advances: Mapping[Partition, Advance]
    readings: Readings
    copy: memoryview
    reading_messages: Sequence[Message]
    reading_rejections: Rejections
    sensors: Sequence[SensorRow]
    sensor_messages: Sequence[Message]
    sensor_rejections: Rejections
    canaries: Sequence[Canary]
    size_bytes: int
    opened_at: float

    @property
    def newest_us(self) -> int | None:
        """The latest time among the readings, in microseconds since 1970."""
        return int(self.readings.time_us.max()) if len(self.readings) else None

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes: the messages' values, the COPY document, and columns as large as that."""
        return self.size_bytes + 2 * len(self.copy)

    @property
    def messages(self) -> int:
        """How many messages the batch is made of."""
        return len(self.reading_messages) + len(self.sensor_messages)

    def dead_letters(self, *, more_readings: Rejections, more_sensors: Rejections) -> list[DeadLetter]:
        """Return one dead letter per message of which something was rejected, here or by the database."""
        return [
            *_dead_letters(self.reading_messages, self.reading_rejections, more_readings),
            *_dead_letters(self.sensor_messages, self.sensor_rejections, more_sensors),
        ]


def _dead_letters(messages: Sequence[Message], rejections: Rejections, more: Rejections) -> list[DeadLetter]:
    return [
        dead_letter(messages[index], [*rejections.get(index, []), *more.get(index, [])])
        for index in sorted({*rejections, *more})
    ]


class BatchBuilder:
    """Decodes fetched messages and collects them until a batch is due."""

    def __init__(self, config: PipelineConfig) -> None:
        self._topic_of_sensors = config.kafka.sensors_topic
        self._limits: BatchConfig = config.batch
        self._measurements = len(config.measurements)
        self._decoder = ReadingDecoder(config.measurements, config.timestamp_unit, config.accepted_window.ahead_seconds)
        self._sensor_decoder = SensorDecoder()
        self._rows_per_message = 1.0
        self._bytes_per_message = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget what was collected."""
        self._readings: list[Readings] = []
        self._reading_messages: list[Message] = []
        self._reading_rejections: Rejections = {}
        self._sensors: list[SensorRow] = []
        self._sensor_messages: list[Message] = []
        self._sensor_rejections: Rejections = {}
        self._canaries: list[Canary] = []
        self._rows = 0
        self._bytes = 0
        self._opened_at = time.monotonic()  # of a batch without messages, which stores offsets only

    @property
    def is_empty(self) -> bool:
        """Whether no message was collected."""
        return not self._reading_messages and not self._sensor_messages

    def fetch_size(self) -> int:
        """Return how many messages fit into the batch, judged by those seen lately; at least 1."""
        if not self._bytes_per_message:
            return FIRST_FETCH
        by_rows = (self._limits.max_rows - self._rows) / self._rows_per_message
        by_bytes = (self._limits.max_bytes - self._bytes) / self._bytes_per_message
        return int(max(1, min(FETCH_ROWS / self._rows_per_message, by_rows, by_bytes)))

    def seconds_left(self) -> float:
        """Return how long the batch may stay open, at least 0."""
        longest = self._limits.max_delay_ms / 1000
        return longest if self.is_empty else max(0.0, self._opened_at + longest - time.monotonic())

    def is_due(self) -> bool:
        """Return whether the batch has the rows, bytes or age to be written."""
        if self.is_empty:
            return False
        is_full = (
            self._rows + self._rows_per_message > self._limits.max_rows
            or self._bytes + self._bytes_per_message > self._limits.max_bytes
        )
        return is_full or self.seconds_left() == 0

    def add(self, messages: Sequence[Message], now: float) -> None:
        """Decode messages, at least one, into the batch; `now` is in seconds since 1970."""
        if self.is_empty:
            self._opened_at = time.monotonic()
        rows = self._rows
        sizes = [len(message.value() or b"") for message in messages]
        for start, end in portions(sizes, DECODE_BYTES):
            self._decode(messages[start:end], now)
        self._bytes += sum(sizes)
        self._rows_per_message = max(1.0, (self._rows - rows) / len(messages))
        self._bytes_per_message = max(1.0, sum(sizes) / len(messages))

    def _decode(self, messages: Sequence[Message], now: float) -> None:
        sensors = [m for m in messages if m.topic() == self._topic_of_sensors]
        self._add_readings([m for m in messages if m.topic() != self._topic_of_sensors] if sensors else messages, now)
        self._add_sensors(sensors)

    def _add_readings(self, messages: Sequence[Message], now: float) -> None:
        if not messages:
            return
        before = len(self._reading_messages)
        readings, rejections = self._decoder.decode(messages, now)
        self._canaries += canaries.take_canaries(messages, rejections)
        self._readings.append(readings.moved(before))
        self._reading_rejections |= {before + index: rejected for index, rejected in rejections.items()}
        self._reading_messages += messages
        self._rows += len(readings)

    def _add_sensors(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        before = len(self._sensor_messages)
        sensors, rejections = self._sensor_decoder.decode(messages)
        self._sensors += [row._replace(message=before + row.message) for row in sensors]
        self._sensor_rejections |= {before + index: rejected for index, rejected in rejections.items()}
        self._sensor_messages += messages
        self._rows += len(sensors)

    def unknown_fields(self, messages: Sequence[Message]) -> set[str]:
        """Return fields of the first message that the pipeline does not declare; see `ReadingDecoder`."""
        first = messages[0]
        return set() if first.topic() == self._topic_of_sensors else self._decoder.unknown_fields(first)

    def build(self, advances: Mapping[Partition, Advance], epoch: int) -> Batch:
        """Return what was collected as a batch, sorted and encoded, and start anew."""
        readings = concatenate(self._readings or [no_readings(self._measurements)]).sorted()
        batch = Batch(
            epoch=epoch,
            advances=advances,
            readings=readings,
            copy=encode(readings),
            reading_messages=self._reading_messages,
            reading_rejections=self._reading_rejections,
            sensors=latest_of_each(self._sensors),
            sensor_messages=self._sensor_messages,
            sensor_rejections=self._sensor_rejections,
            canaries=canaries.latest_of_each(self._canaries),
            size_bytes=self._bytes,
            opened_at=self._opened_at,
        )
        self.clear()
        return batch


def latest_of_each(rows: Sequence[SensorRow]) -> list[SensorRow]:
    """Return the last row of each sensor, ordered by id: one statement must not touch a row twice."""
    return sorted({row.sensor.id: row for row in rows}.values(), key=lambda row: row.sensor.id)


def portions(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of successive runs of `sizes` that sum up to `limit` at most, or are one larger size."""
    start = total = 0
    if sum(sizes) > limit:
        for end, size in enumerate(sizes):
            if total + size > limit and end > start:
                yield start, end
                start, total = end, 0
            total += size
    yield start, len(sizes)
