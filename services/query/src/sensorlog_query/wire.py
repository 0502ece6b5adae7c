"""Readings as the bytes of protobuf messages, all rows of an answer at once.

To begin with, every row has the same layout: the tags of its fields, and room for the longest `ts` and `sensor_id` of
all. So rows are an array. A shorter number than the longest is padded, and every protobuf reads a varint that is longer
than it need be (https://protobuf.dev/programming-guides/encoding/#varints). What is left out of a row, because it is
NULL, is cut out of the bytes.
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

WIDTHS = range(11)
"""How many bytes a varint can have."""
SEVEN_BITS = [np.arange(0, 7 * width, 7, dtype=np.uint64) for width in WIDTHS]
ANOTHER_FOLLOWS = [np.array([0x80] * (width - 1) + [0] * min(width, 1), np.uint8) for width in WIDTHS]
"""For each width, where the bits of each byte are in the number, and the mark of each byte but the last."""

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
    ts, sensor_id = ts.view(np.uint64), sensor_id.view(np.uint64)
    return _layout(measurements, _width(ts), _width(sensor_id)).encoded(ts, sensor_id, values, nulls)


class _Layout:
    """Rows whose varints have these widths, in bytes."""

    def __init__(self, measurements: Sequence[str], ts_width: int, sensor_id_width: int) -> None:
        fields = pb.SensorData.DESCRIPTOR.fields_by_name
        results = pb.ListSensorDataReply.DESCRIPTOR.fields_by_name["results"].number
        row = bytearray()
        places: dict[str, tuple[Any, int]] = {}
        for name, width in (("ts", ts_width), ("sensor_id", sensor_id_width)):
            row += tag(fields[name].number, VARINT)
            places[name] = (("u1", width), len(row))
            row += bytes(width)
        spans = []
        for i, name in enumerate(measurements):
            start = len(row)
            row += _before_value(name)
            places[f"value{i}"] = (DOUBLE, len(row))
            row += bytes(DOUBLE_BYTES)
            spans.append((start, len(row)))
        self._template = field(results, bytes(row))
        self._begin = len(self._template) - len(row)
        self._length_at = len(tag(results, LENGTH_DELIMITED))
        self._spans = [slice(self._begin + start, self._begin + end) for start, end in spans]
        formats, offsets = zip(*places.values(), strict=True)
        self._type = np.dtype(
            {
                "names": list(places),
                "formats": formats,
                "offsets": [self._begin + offset for offset in offsets],
                "itemsize": len(self._template),
            }
        )
        self._widths = ts_width, sensor_id_width
        self._places = tuple(f"value{i}" for i in range(len(measurements)))

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
        everything: NDArray[np.uint8] = rows.view(np.uint8).reshape(kept.shape)
        lengths = kept[:, self._begin :].sum(axis=1, dtype=np.uint64)
        everything[:, self._length_at : self._begin] = _varints(lengths, self._begin - self._length_at)
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
    return max(1, -(-int(np.maximum.reduce(numbers)).bit_length() // 7))


def _varints(numbers: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Return each number as a varint of `width` bytes, which are seven bits each and whether another follows.

    The last byte has no more than seven bits, because no number is wider.
    """
    shifted = np.right_shift(numbers[:, np.newaxis], SEVEN_BITS[width]).astype(np.uint8)
    return np.bitwise_or(shifted, ANOTHER_FOLLOWS[width], out=shifted)
