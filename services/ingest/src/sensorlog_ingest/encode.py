"""Readings as PostgreSQL's binary COPY format, without Python code per row.

Format: https://www.postgresql.org/docs/17/sql-copy.html, "Binary Format". A tuple is its count of fields (int16),
then for each field its length (int32, -1 for NULL) and its bytes, all big-endian.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from sensorlog.timestamps import POSTGRES_EPOCH_US
from sensorlog_ingest.readings import Readings

HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0\0\0\0" + b"\0\0\0\0"  # signature, flags, length of the extension
TRAILER = b"\xff\xff"
FIELD_BYTES = 8
NULL_LENGTH = -1


@functools.cache
def tuple_type(measurements: int) -> np.dtype[np.void]:
    """Return the layout of one tuple without NULLs: time, sensor_id, then v0.. for the measurements."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    for name, kind in [("time", ">i8"), ("sensor_id", ">i8"), *((f"v{i}", ">f8") for i in range(measurements))]:
        fields += [(f"{name}_length", ">i4"), (name, kind)]
    return np.dtype(fields)


def encode(readings: Readings) -> memoryview:
    """Return a complete COPY document of (time, sensor_id, measurements...), in the given order; NaN is NULL."""
    layout = tuple_type(len(readings.values))
    document = _document(len(readings) * layout.itemsize)
    tuples = _body(document).view(layout)
    _fill(tuples, readings)
    nulls = np.isnan(readings.values)
    if nulls.any():
        body = _without_nulls(tuples, nulls)
        document = _document(len(body))
        _body(document)[:] = body
    return document.data


def _document(body_bytes: int) -> NDArray[np.uint8]:
    """Return a document whose body is still to be written: in place, because copies of megabytes cost time."""
    document = np.empty(len(HEADER) + body_bytes + len(TRAILER), np.uint8)
    document[: len(HEADER)] = np.frombuffer(HEADER, np.uint8)
    document[-len(TRAILER) :] = np.frombuffer(TRAILER, np.uint8)
    return document


def _body(document: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return document[len(HEADER) : -len(TRAILER)]


def _fill(tuples: NDArray[np.void], readings: Readings) -> None:
    """Write every tuple at its full width, as if there were no NULLs."""
    tuples["count"] = 2 + len(readings.values)
    tuples["time_length"] = tuples["sensor_id_length"] = FIELD_BYTES
    tuples["time"] = readings.time_us - POSTGRES_EPOCH_US
    tuples["sensor_id"] = readings.sensor_id
    for i, values in enumerate(readings.values):
        tuples[f"v{i}_length"] = FIELD_BYTES
        tuples[f"v{i}"] = values


def _without_nulls(tuples: NDArray[np.void], nulls: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mark the NULL fields and squeeze their bytes out of the tuples, which then have different widths."""
    layout = tuples.dtype
    kept = np.ones((len(tuples), layout.itemsize), np.bool_)
    for i, null in enumerate(nulls):
        tuples[f"v{i}_length"][null] = NULL_LENGTH
        start = layout.fields[f"v{i}"][1] if layout.fields else 0
        kept[null, start : start + FIELD_BYTES] = False
    return tuples.view(np.uint8).reshape(kept.shape)[kept]
