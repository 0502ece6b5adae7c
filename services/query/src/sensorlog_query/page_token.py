"""Page tokens of ListSensorData: opaque to callers, where the page before ended to us.

A position is the (time, sensor_id) of the last reading returned and how many readings with exactly that key were
returned already: several readings may share it. Counting them is sound because readings with equal keys are ordered
by their measurements (see `sql`), and it survives what changes a row's place on disk: vacuum, compression, a replica.
"""

import base64
import binascii
import struct
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b

from sensorlog_query.errors import InvalidArgumentError
from sensorlog_query.microseconds import Moment

VERSION = 1
_BODY = struct.Struct(">BqqI")
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Position:
    """After `returned` readings of `sensor_id` at `time`."""

    time: Moment
    sensor_id: int
    returned: int


def fingerprint(*parts: Hashable) -> bytes:
    """Return what a token is bound to: the pipeline, the filters and the order."""
    return repr(parts).encode()


def encode(position: Position, bound_to: bytes) -> str:
    """Return the token of `position`."""
    body = _BODY.pack(VERSION, position.time, position.sensor_id, position.returned)
    return base64.urlsafe_b64encode(body + _digest(body, bound_to)).decode()


def decode(token: str, bound_to: bytes) -> Position:
    """Return the position of `token`; InvalidArgumentError where it is damaged or of another request."""
    raw = _bytes(token)
    if not raw or raw[0] != VERSION or len(raw) != _BODY.size + _DIGEST_BYTES:
        raise InvalidArgumentError("page_token", "not a token of this service; must be a reply's next_page_token")
    body, digest = raw[: _BODY.size], raw[_BODY.size :]
    # The digest is no signature: it catches mistakes, and a forged token reads nothing that a filter could not.
    if digest != _digest(body, bound_to):
        raise InvalidArgumentError(
            "page_token", "of another request; must be sent with the pipeline, filters and order it was issued for"
        )
    _, time, sensor_id, returned = _BODY.unpack(body)
    return Position(Moment(time), sensor_id, returned)


def _bytes(token: str) -> bytes:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError):
        return b""


def _digest(body: bytes, bound_to: bytes) -> bytes:
    return blake2b(body + bound_to, digest_size=_DIGEST_BYTES).digest()
