"""Answers as plain values: a measurement that is NULL is not in the mapping."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sensorlog.rpc import logger_pb2 as pb

TEMPERATURE, CPU = "temperature", "cpu"
"""The measurements that have fields of their own in the contract, from the time when there were no others."""


class Aggregate(StrEnum):
    """What can be told of a bucket beside count and averages."""

    MIN = "min"
    MAX = "max"
    FIRST = "first"
    """Of the earliest reading that has a value."""
    LAST = "last"
    """Of the latest reading that has a value."""


AGGREGATES = {
    Aggregate.MIN: pb.AGGREGATE_MINIMUM,
    Aggregate.MAX: pb.AGGREGATE_MAXIMUM,
    Aggregate.FIRST: pb.AGGREGATE_FIRST,
    Aggregate.LAST: pb.AGGREGATE_LAST,
}


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor that announced itself."""

    id: int
    type: str
    location: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading; `ts` in the pipeline's unit since 1970-01-01 UTC, values by measurement."""

    ts: int
    sensor_id: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What the readings of a span of time come to, by measurement.

    `start` in the pipeline's unit; `sensor_id` where there is a series for each sensor; `count` is of readings. The
    aggregates other than `averages` are empty unless asked for.
    """

    start: int
    sensor_id: int | None
    count: int
    averages: Mapping[str, float]
    minimums: Mapping[str, float] = field(default_factory=dict)
    maximums: Mapping[str, float] = field(default_factory=dict)
    firsts: Mapping[str, float] = field(default_factory=dict)
    lasts: Mapping[str, float] = field(default_factory=dict)


def sensor_of(message: pb.Sensor) -> Sensor:
    """Return a sensor's message as it is used here."""
    return Sensor(message.id, message.type, message.location)


def reading_of(message: pb.SensorData) -> Reading:
    """Return a reading's message as it is used here: temperature and cpu first, then the others by name."""
    values: dict[str, float] = {}
    if message.HasField("temperature"):
        values[TEMPERATURE] = message.temperature
    if message.HasField("cpu"):
        values[CPU] = message.cpu
    return Reading(message.ts, message.sensor_id, values | dict(sorted(message.measurements.items())))


def bucket_of(message: pb.SensorAvgData | pb.SensorAvgAndLatestData) -> Bucket:
    """Return a bucket's message as it is used here; the latest values are its `lasts`."""
    return Bucket(
        start=message.period,
        sensor_id=message.sensor_id if message.HasField("sensor_id") else None,
        count=message.count,
        averages=_averages(message),
        minimums=dict(sorted(message.minimums.items())),
        maximums=dict(sorted(message.maximums.items())),
        firsts=dict(sorted(message.firsts.items())),
        lasts=_lasts(message),
    )


def _averages(message: pb.SensorAvgData | pb.SensorAvgAndLatestData) -> dict[str, float]:
    averages = dict(sorted(message.averages.items()))
    # A service of the original contract fills only these.
    if message.HasField("avg_temp"):
        averages.setdefault(TEMPERATURE, message.avg_temp)
    if message.HasField("avg_cpu"):
        averages.setdefault(CPU, message.avg_cpu)
    return averages


def _lasts(message: pb.SensorAvgData | pb.SensorAvgAndLatestData) -> dict[str, float]:
    if isinstance(message, pb.SensorAvgData):
        return dict(sorted(message.lasts.items()))
    latest = dict(sorted(message.latest.items()))
    if message.HasField("last_temp"):
        latest.setdefault(TEMPERATURE, message.last_temp)
    return latest
