"""Readings as the bytes of protobuf messages, all rows of an answer at once.

To begin with, every row has the same layout: the tags of its fields, and room for the longest `ts` and `sensor_id` of
all. So rows are an array. protobuf reads a varint that is longer than it need be
(https://protobuf.dev/programming-guides/encoding/#varints), and a message made from these bytes writes it at its
shortest. What is left out of a row, because it is NULL, is cut out of the bytes.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.packed import DOUBLE, LENGTH_DELIMITED, field, tag

VARINT, FIXED64 = 0, 1
DOUBLE_BYTES = 8

SEVEN_BITS = np.arange(0, 64, 7, dtype=np.uint64)
LENGTH_BYTES = 3
"""Bytes of a row's length: up to 2 MiB."""

OWN_FIELDS = ("temperature", "cpu")
"""Measurements that have a field of their own, from the time when there were no others; the rest is in the map."""


def results(
    measurements: tuple[str, ...],
    ts: NDArray[Any],
    sensor_id: NDArray[Any],
    values: Sequence[NDArray[Any]],
    nulls: NDArray[np.bool_],
) -> bytes:
    """Return readings as the field `results` of a reply.

    `values` has an array for each of `measurements`, and `nulls` a column for each that says which to leave out.
    """
    if not len(ts):
        return b""
    ts, sensor_id = ts.astype(np.uint64), sensor_id.astype(np.uint64)
    return _layout(measurements, _width(ts), _width(sensor_id)).encoded(ts, sensor_id, values, nulls)


class _Layout:
    """Rows whose varints have these widths, in bytes."""

    def __init__(self, measurements: Sequence[str], ts_width: int, sensor_id_width: int) -> None:
        fields = pb.SensorData.DESCRIPTOR.fields_by_name
        results = pb.ListSensorDataReply.DESCRIPTOR.fields_by_name["results"].number
        template = bytearray(tag(results, LENGTH_DELIMITED) + bytes(LENGTH_BYTES))
        self._begin = len(template)
        places: dict[str, tuple[Any, int]] = {"length": (("u1", LENGTH_BYTES), self._begin - LENGTH_BYTES)}
        for name, width in (("ts", ts_width), ("sensor_id", sensor_id_width)):
            template += tag(fields[name].number, VARINT)
            places[name] = (("u1", width), len(template))
            template += bytes(width)
        self._spans = []
        for i, name in enumerate(measurements):
            start = len(template)
            template += _before_value(name)
            places[f"value{i}"] = (DOUBLE, len(template))
            template += bytes(DOUBLE_BYTES)
            self._spans.append(slice(start, len(template)))
        formats, offsets = zip(*places.values(), strict=True)
        self._type = np.dtype(
            {"names": list(places), "formats": formats, "offsets": offsets, "itemsize": len(template)}
        )
        self._widths = ts_width, sensor_id_width
        self._places = tuple(f"value{i}" for i in range(len(measurements)))
        row = np.frombuffer(template, self._type)
        row["length"] = _varints(np.array([len(template) - self._begin], np.uint64), LENGTH_BYTES)
        self._template = bytes(template)

    def encoded(
        self,
        ts: NDArray[np.uint64],
        sensor_id: NDArray[np.uint64],
        values: Sequence[NDArray[Any]],
        nulls: NDArray[np.bool_],
    ) -> bytes:
        rows = np.frombuffer(bytearray(self._template * len(ts)), self._type)
        ts_width, sensor_id_width = self._widths
        rows["ts"], rows["sensor_id"] = _varints(ts, ts_width), _varints(sensor_id, sensor_id_width)
        for place, column in zip(self._places, values, strict=True):
            rows[place] = column
        return self._without(rows, nulls) if nulls.any() else rows.tobytes()

    def _without(self, rows: NDArray[Any], nulls: NDArray[np.bool_]) -> bytes:
        kept = np.ones((len(rows), self._type.itemsize), np.bool_)
        for i, span in enumerate(self._spans):
            kept[:, span] = ~nulls[:, i, np.newaxis]
        rows["length"] = _varints(kept[:, self._begin :].sum(axis=1, dtype=np.uint64), LENGTH_BYTES)
        everything: NDArray[np.uint8] = rows.view(np.uint8).reshape(kept.shape)
        return everything[kept].tobytes()


@cache
def _layout(measurements: tuple[str, ...], ts_width: int, sensor_id_width: int) -> _Layout:
    return _Layout(measurements, ts_width, sensor_id_width)


def _before_value(measurement: str) -> bytes:
    """Return what precedes the 8 bytes of a measurement's value."""
    fields = pb.SensorData.DESCRIPTOR.fields_by_name
    if measurement in OWN_FIELDS:
        return tag(fields[measurement].number, FIXED64)
    # An entry of a map is a message of key and value: https://protobuf.dev/programming-guides/encoding/#maps
    entry = field(1, measurement.encode()) + tag(2, FIXED64) + bytes(DOUBLE_BYTES)
    return field(fields["measurements"].number, entry)[:-DOUBLE_BYTES]


def _width(numbers: NDArray[np.uint64]) -> int:
    """Return how many bytes the longest varint of these numbers has."""
    return max(1, -(-int(numbers.max()).bit_length() // 7))


def _varints(numbers: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Return each number as a varint of `width` bytes, which are seven bits each and whether another follows."""
    encoded = (numbers[:, np.newaxis] >> SEVEN_BITS[:width]).astype(np.uint8)
    encoded |= 0x80
    encoded[:, -1] &= 0x7F
    return encoded
