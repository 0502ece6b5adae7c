"""A reading's `ts`: an integer in the pipeline's unit since 1970-01-01 UTC.

The database keeps microseconds (PostgreSQL's timestamptz resolution), so `ns` loses its last three digits.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal

TimestampUnit = Literal["s", "ms", "us", "ns"]

PER_SECOND: dict[TimestampUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""How many of a unit make a second."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, from where PostgreSQL's binary timestamptz counts, in microseconds since 1970."""


def to_microseconds(ts: int, unit: TimestampUnit) -> int:
    """Return `ts` in microseconds since 1970, rounded down."""
    return ts * 1_000_000 // PER_SECOND[unit]


def from_microseconds(us: int, unit: TimestampUnit) -> int:
    """Return microseconds since 1970 in `unit`, rounded down."""
    return us * PER_SECOND[unit] // 1_000_000


def to_datetime(ts: int, unit: TimestampUnit) -> datetime:
    """Return `ts` as an aware UTC datetime.

    Raises OverflowError where the year would be outside 1 to 9999.
    """
    return EPOCH + timedelta(microseconds=to_microseconds(ts, unit))


def from_datetime(moment: datetime, unit: TimestampUnit) -> int:
    """Return an aware datetime as a `ts` in `unit`, rounded down."""
    return from_microseconds((moment - EPOCH) // timedelta(microseconds=1), unit)
