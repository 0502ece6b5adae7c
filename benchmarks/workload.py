"""The readings of every benchmark: sensors report in turn, once a second, and no two readings are alike."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensorlog_ingest.readings import Readings
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS

SENSORS = 1_000
PARTITIONS = 6
MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """`rows` readings of two measurements, `per_message` of them in each Kafka message."""

    rows: int
    per_message: int

    def __post_init__(self) -> None:
        if self.rows % self.per_message:
            raise ValueError(f"rows must be a multiple of the {self.per_message} readings of a message")

    @property
    def messages(self) -> int:
        """How many messages there are."""
        return self.rows // self.per_message

    def readings(self, start: int, end: int) -> Readings:
        """Return the readings start..end as columns, in the order in which they were sent."""
        number = np.arange(start, end, dtype=np.int64)
        origin: NDArray[np.int32] = np.zeros(len(number), np.int32)
        return Readings(
            time_us=(SEED_TS + number // SENSORS) * MICROSECONDS,
            sensor_id=number % SENSORS,
            values=np.stack([15 + number % 200 / 10, number % 1000 / 10]),
            message=origin,
            position=origin,
        )

    def values(self) -> Iterator[bytes]:
        """Yield the messages' values: a JSON array each, or an object where a message has one reading."""
        for start in range(0, self.rows, self.per_message):
            readings = self.readings(start, start + self.per_message)
            rows = [
                {"ts": ts // MICROSECONDS, "sensor_id": sensor, "temperature": temperature, "cpu": cpu}
                for ts, sensor, temperature, cpu in zip(
                    readings.time_us.tolist(), readings.sensor_id.tolist(), *readings.values.tolist(), strict=True
                )
            ]
            yield json.dumps(rows if self.per_message > 1 else rows[0], separators=(",", ":")).encode()

    def produce(self, broker: KafkaBroker, topic: str) -> None:
        """Create the topic and fill it; messages go to its partitions in turn, as devices of different keys do."""
        broker.create_topic(topic, PARTITIONS)
        broker.produce(topic, self.values(), partitions=PARTITIONS)
