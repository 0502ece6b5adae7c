"""Where a watch stands: which batches of `ingest_batches` it has seen. Its token is opaque to callers.

Transactions do not end in the order of their ids, so the newest id seen says little: a batch with a smaller one may
still be about to be committed. What is certain is `pg_snapshot_xmin`: whatever is below has ended
(https://www.postgresql.org/docs/17/functions-info.html#FUNCTIONS-PG-SNAPSHOT). A position is a floor that is never
above it, and the ids at or above the floor that were seen. The list of running transactions that a snapshot also has
would be shorter, but is empty on a replica.

The floor is not above the newest batch seen either, and that batch is remembered with the moment of its commit, its
mark. While the database still has it, no transaction that was lost in a failover can have given its id to a new one
below the floor; when it has not, it is another database, or an older state of it.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from sensorlog_query.errors import InvalidArgumentError

VERSION = 1
_BODY = struct.Struct(">Bqqqq")
_DIGEST_BYTES = 8
_MAX_SEEN_BYTES = 1024 * 1024
FIELD = "resume_token"


@dataclass(frozen=True, slots=True)
class Batch:
    """What `ingest_batches` says of one: times are in microseconds since 1970, `last_us` inclusive."""

    xid: int
    committed_us: int
    rows: int
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class Position:
    """Everything below `floor` has been seen, and `seen`. `told_us` is when, by the database's clock.

    `mark_xid` is 0 where the pipeline had no batch yet.
    """

    floor: int = 0
    seen: frozenset[int] = frozenset()
    mark_xid: int = 0
    mark_us: int = 0
    told_us: int = 0

    def has(self, xid: int) -> bool:
        """Return whether a batch was seen."""
        return xid < self.floor or xid in self.seen

    def after(self, batch: Batch) -> "Position":
        """Return the position with one more batch seen."""
        return self._with((batch,), self.floor, self.told_us)

    def after_look(self, batches: Iterable[Batch], xmin: int, now_us: int) -> "Position":
        """Return the position after all of `batches`, below whose `xmin` there are no others."""
        return self._with(batches, xmin, now_us)

    def _with(self, batches: Iterable[Batch], xmin: int, now_us: int) -> "Position":
        more = {batch.xid: batch.committed_us for batch in batches}
        newest = max((self.mark_xid, self.mark_us), *more.items()) if more else (self.mark_xid, self.mark_us)
        return _position(min(xmin, newest[0] + 1), self.floor, self.seen | more.keys(), newest, now_us)

    def joined(self, other: "Position") -> "Position":
        """Return what either of them has seen."""
        newest = max((self.mark_xid, self.mark_us), (other.mark_xid, other.mark_us))
        told_us = max(self.told_us, other.told_us)
        return _position(self.floor, other.floor, self.seen | other.seen, newest, told_us)


def _position(floor: int, other: int, seen: frozenset[int], mark: tuple[int, int], told_us: int) -> Position:
    highest = max(floor, other)
    return Position(highest, frozenset(xid for xid in seen if xid >= highest), *mark, told_us)


def encode(position: Position, schema: str) -> str:
    """Return the token of `position` in a pipeline's schema."""
    body = _BODY.pack(VERSION, position.floor, position.mark_xid, position.mark_us, position.told_us)
    ids = [position.floor, *sorted(position.seen)]
    steps = b"".join(_varint(after - before) for before, after in pairwise(ids))
    body += zlib.compress(steps)
    return base64.urlsafe_b64encode(_digest(body, schema) + body).decode()


def decode(token: str, schema: str) -> Position:
    """Return the position of `token`; InvalidArgumentError where it is damaged or of another pipeline."""
    raw = _bytes(token)
    body = raw[_DIGEST_BYTES:]
    if len(body) <= _BODY.size or body[0] != VERSION:
        raise InvalidArgumentError(FIELD, "not a token of this service; must be a resume_token of WatchSensorData")
    # No signature: it catches mistakes, and a forged token reads nothing that its owner could not.
    if raw[:_DIGEST_BYTES] != _digest(body, schema):
        raise InvalidArgumentError(FIELD, "of another pipeline, or damaged; must be sent to the pipeline it came from")
    _, floor, mark_xid, mark_us, told_us = _BODY.unpack_from(body)
    return Position(floor, frozenset(_ids(body[_BODY.size :], floor)), mark_xid, mark_us, told_us)


def _bytes(token: str) -> bytes:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError):
        return b""


def _ids(compressed: bytes, floor: int) -> Iterable[int]:
    xid, step, shift = floor, 0, 0
    for byte in zlib.decompressobj().decompress(compressed, _MAX_SEEN_BYTES):
        step |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004 -- the bit that says whether another byte follows
            xid += step
            yield xid
            step = shift = 0


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 -- seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def _digest(body: bytes, schema: str) -> bytes:
    return blake2b(body + schema.encode(), digest_size=_DIGEST_BYTES).digest()
