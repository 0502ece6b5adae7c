"""Rows as messages of the contract, in the pipeline's unit of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import PER_SECOND, POSTGRES_EPOCH_US, TimestampUnit, from_microseconds
from sensorlog_query import packed, packed_rows, wire
from sensorlog_query.aggregates import Aggregate
from sensorlog_query.copy_binary import Block
from sensorlog_query.readings import Row
from sensorlog_query.validation import MAX_PAGE_SIZE

TEMPERATURE, CPU = wire.OWN_FIELDS

TOKEN = pb.ListSensorDataReply.DESCRIPTOR.fields_by_name["next_page_token"].number

KEY_BYTES = 32
"""At most, per message: its tag and length, ts or period, sensor_id."""
ENTRY_BYTES = 20
"""At most, per entry of a map: tags, lengths, the double. The name comes on top."""


def largest_page_bytes(measurements: Sequence[str]) -> int:
    """Return how large the largest page of readings can be."""
    return MAX_PAGE_SIZE * (KEY_BYTES + sum(ENTRY_BYTES + len(name) for name in measurements))


@dataclass(frozen=True, slots=True)
class Replies:
    """Builds messages from rows whose values come in the order of `measurements`."""

    unit: TimestampUnit
    measurements: tuple[str, ...]

    def sensor(self, row: Row) -> pb.Sensor:
        """Return the message of (id, type, location)."""
        sensor_id, kind, location = row
        return pb.Sensor(id=sensor_id, type=kind, location=location)

    def reading(self, row: Row) -> pb.SensorData:
        """Return the message of (time, sensor_id, value...)."""
        time, sensor_id, *values = row
        present = self._present(values)
        return pb.SensorData(
            ts=from_microseconds(time, self.unit),
            sensor_id=sensor_id,
            temperature=present.pop(TEMPERATURE, None),
            cpu=present.pop(CPU, None),
            measurements=present,
        )

    def page(self, block: Block, next_page_token: str) -> bytes:
        """Return the bytes of the reply of ListSensorData: a message's are those of its fields, one after the other."""
        return self.readings(block) + (packed.field(TOKEN, next_page_token.encode()) if next_page_token else b"")

    def readings(self, block: Block) -> bytes:
        """Return the bytes of a message whose field `results` has the block's rows, each as `reading` makes it."""
        values = [block[f"v{i}"] for i in range(packed_rows.KEY, packed_rows.columns(block))]
        ts = self._timestamps(block["v0"])
        return wire.results(self.measurements, ts, block["v1"], values, packed_rows.nulls(block))

    def average(self, row: Row, aggregates: Iterable[Aggregate]) -> pb.SensorAvgData:
        """Return the message of (bucket, sensor_id or None, count, values of the first of `aggregates`...)."""
        bucket, sensor_id, count, *values = row
        told = self._by_aggregate(values, aggregates)
        averages = told[Aggregate.AVERAGE]
        return pb.SensorAvgData(
            period=from_microseconds(bucket, self.unit),
            avg_temp=averages.get(TEMPERATURE),
            avg_cpu=averages.get(CPU),
            sensor_id=sensor_id,
            count=count,
            averages=averages,
            minimums=told.get(Aggregate.MINIMUM),
            maximums=told.get(Aggregate.MAXIMUM),
            firsts=told.get(Aggregate.FIRST),
            lasts=told.get(Aggregate.LAST),
        )

    def average_and_latest(self, row: Row, aggregates: Iterable[Aggregate]) -> pb.SensorAvgAndLatestData:
        """Return the message of a row as for `average`; LAST is among the aggregates."""
        bucket, sensor_id, count, *values = row
        told = self._by_aggregate(values, aggregates)
        averages, latest = told[Aggregate.AVERAGE], told[Aggregate.LAST]
        return pb.SensorAvgAndLatestData(
            period=from_microseconds(bucket, self.unit),
            avg_temp=averages.get(TEMPERATURE),
            avg_cpu=averages.get(CPU),
            last_temp=latest.get(TEMPERATURE),
            sensor_id=sensor_id,
            count=count,
            averages=averages,
            latest=latest,
            minimums=told.get(Aggregate.MINIMUM),
            maximums=told.get(Aggregate.MAXIMUM),
            firsts=told.get(Aggregate.FIRST),
        )

    def columns(self, block: Block, names: Sequence[str]) -> pb.ExportSensorDataReply:
        """Return the message of a block of (time, sensor_id, value of each name)."""
        values = [block[f"v{i}"] for i in range(2, 2 + len(names))]
        return packed.export_reply(self._timestamps(block["v0"]), block["v1"], dict(zip(names, values, strict=True)))

    def _timestamps(self, since_2000: Any) -> Any:
        # Both factors are powers of ten, so one of them divides the other: nothing overflows on the way.
        microseconds = np.asarray(since_2000, np.int64) + POSTGRES_EPOCH_US
        per_second, us = PER_SECOND[self.unit], PER_SECOND["us"]
        return microseconds * (per_second // us) if per_second > us else microseconds // (us // per_second)

    def _by_aggregate(
        self, values: Sequence[float | None], aggregates: Iterable[Aggregate]
    ) -> dict[Aggregate, dict[str, float]]:
        width = len(self.measurements)
        return {a: self._present(values[i * width : (i + 1) * width]) for i, a in enumerate(aggregates)}

    def _present(self, values: Sequence[float | None]) -> dict[str, float]:
        return {name: value for name, value in zip(self.measurements, values, strict=True) if value is not None}
