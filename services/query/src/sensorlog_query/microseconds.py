"""Moments as integers: microseconds since 1970, the resolution of timestamptz.

psycopg's datetime would cost a microsecond of work per reading and ends at year 9999.
"""

from datetime import timedelta

from psycopg import Connection, adapters
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from sensorlog.timestamps import EPOCH, POSTGRES_EPOCH_US

TIMESTAMPTZ = adapters.types["timestamptz"].oid
SMALLEST, LARGEST = -(2**63), 2**63 - 1
"""What PostgreSQL sends for -infinity and infinity, counted from 2000."""


class Moment(int):
    """Microseconds since 1970, as a parameter of type timestamptz."""

    __slots__ = ()


BEGINNING = Moment(SMALLEST + POSTGRES_EPOCH_US)
"""Before every reading: PostgreSQL's -infinity."""

END = Moment(LARGEST + POSTGRES_EPOCH_US)
"""After every reading: PostgreSQL's infinity."""


INFINITE = {BEGINNING: b"-infinity", END: b"infinity"}


class _MomentDumper(Dumper):
    format = Format.BINARY
    oid = TIMESTAMPTZ

    def dump(self, obj: Moment) -> Buffer:
        return (int(obj) - POSTGRES_EPOCH_US).to_bytes(8, "big", signed=True)


class _MomentLiteral(Dumper):
    """For COPY, whose parameters psycopg must put into the statement itself."""

    oid = TIMESTAMPTZ

    def dump(self, obj: Moment) -> Buffer:
        if obj in INFINITE:
            return INFINITE[obj]
        return (EPOCH + timedelta(microseconds=obj)).isoformat().encode()


class _MomentLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Moment:
        return Moment(int.from_bytes(data, "big", signed=True) + POSTGRES_EPOCH_US)


def register(connection: Connection[object]) -> None:
    """Make `connection` take and give Moments for timestamptz in binary cursors."""
    connection.adapters.register_dumper(Moment, _MomentLiteral)
    connection.adapters.register_dumper(Moment, _MomentDumper)  # the last one is preferred
    connection.adapters.register_loader(TIMESTAMPTZ, _MomentLoader)
