"""Messages of packed columns, made from numpy arrays without a Python object for each value.

A packed field of 8-byte values is its tag, its length and the values as little-endian bytes one after the other
(https://protobuf.dev/programming-guides/encoding/#packed), which is what an array is in memory. protobuf reads such
bytes in one piece, and it checks them on the way.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sensorlog.rpc import logger_pb2 as pb

LENGTH_DELIMITED = 2
CONTINUED = 0x80

INTEGER = "<i8"
DOUBLE = "<f8"


def export_reply(
    ts: NDArray[Any], sensor_id: NDArray[Any], columns: Mapping[str, NDArray[Any]]
) -> pb.ExportSensorDataReply:
    """Return the message of columns of equal length, whatever their order of bytes."""
    fields = [_values(1, ts, INTEGER), _values(2, sensor_id, INTEGER)]
    fields += [field(3, field(1, name.encode()) + _values(2, values, DOUBLE)) for name, values in columns.items()]
    return pb.ExportSensorDataReply.FromString(b"".join(fields))


def _values(number: int, values: NDArray[Any], kind: str) -> bytes:
    return field(number, values.astype(kind).tobytes()) if len(values) else b""


def field(number: int, content: bytes) -> bytes:
    """Return a field of bytes, which a string and a message are too."""
    return tag(number, LENGTH_DELIMITED) + _varint(len(content)) + content


def tag(number: int, wire_type: int) -> bytes:
    """Return what precedes a field's value."""
    return _varint(number << 3 | wire_type)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= CONTINUED:
        encoded.append(number & (CONTINUED - 1) | CONTINUED)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
