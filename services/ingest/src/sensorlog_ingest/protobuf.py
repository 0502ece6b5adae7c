"""Messages in protobuf: logger.service.v1.SensorDataList, chosen by the header content-type."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog_ingest.rejections import Reason, Rejection

OWN_FIELDS = ("temperature", "cpu")
"""Measurements that have a field of their own; others stand in the map `measurements`."""


class NotProtobufError(Exception):
    """The value is no SensorDataList; the message says why."""


def parse(value: bytes) -> Sequence[SensorData]:
    """Return the readings of a SensorDataList; NotProtobufError where it is none, or is one without readings."""
    try:
        items = SensorDataList.FromString(value).items
    except DecodeError as e:
        raise NotProtobufError(str(e)) from e
    if not items:  # any bytes of unknown fields parse; an empty list has no bytes at all
        raise NotProtobufError("no reading in it: is it a logger.service.v1.SensorDataList?")
    return items


def keep(value: bytes, positions: Sequence[int]) -> bytes:
    """Return a SensorDataList with only the readings at `positions` of `value`, in the order of `value`."""
    items = parse(value)
    return SensorDataList(items=[items[position] for position in sorted(positions)]).SerializeToString()


def reader(measurements: Sequence[str]) -> Callable[[SensorData], list[float]]:
    """Return a function from a reading to its values in declared order; NaN where one is absent.

    It raises ValueError naming a value that is present and not finite.
    """

    def read(item: SensorData) -> list[float]:
        return [_value(item, name) for name in measurements]

    return read


def _value(item: SensorData, name: str) -> float:
    if name in OWN_FIELDS and item.HasField(name):  # type: ignore[arg-type]  # one of the two literals
        value: float = getattr(item, name)
    elif name in item.measurements:
        value = item.measurements[name]
    else:
        return math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def to_rows(
    items: Sequence[SensorData], reading: type[Any], measurements: Sequence[str]
) -> tuple[list[Any], list[int], list[Rejection]]:
    """Return `reading` structs, the position of each, and what was rejected.

    proto3 does not tell 0 from absent: a ts of 0 counts as missing, a sensor_id of 0 as sensor 0.
    """
    read = reader(measurements)
    rows: list[Any] = []
    positions: list[int] = []
    rejections: list[Rejection] = []
    for position, item in enumerate(items):
        try:
            if item.ts == 0:
                rejections.append(Rejection(Reason.MISSING_TS, "ts is missing or 0", position))
                continue
            rows.append(reading(item.ts, item.sensor_id, *read(item)))
            positions.append(position)
        except ValueError as e:
            rejections.append(Rejection(Reason.NOT_FINITE, str(e), position))
    return rows, positions, rejections
