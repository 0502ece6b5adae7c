"""The shape of a rollup, on which operator and query service agree: a row per bucket and sensor.

    bucket      timestamptz, the start of the bucket; buckets are counted from 2000-01-03T00:00Z, as time_bucket does
    sensor_id   bigint
    readings    bigint, the number of readings
    M_count     bigint, the readings in which measurement M is not NULL; and of these the
    M_sum       double precision,
    M_min, M_max
    M_first, M_first_time, M_last, M_last_time

From these the average, minimum, maximum, first and last value of every wider bucket follow, of any set of sensors.
"""

import hashlib
from datetime import timedelta
from enum import StrEnum

from sensorlog import durations
from sensorlog.timestamps import PER_SECOND

PREFIX = "rollup_"
IDENTIFIER_BYTES = 63
DIGEST_CHARACTERS = 8

MAX_ROLLUPS = 4
"""Each costs a refresh of its own."""

MAX_MEASUREMENTS = 180
"""PostgreSQL allows 1600 columns in a view."""

ORIGIN_US = 946_857_600 * PER_SECOND["us"]
"""Where buckets are counted from: 2000-01-03, a Monday, in microseconds since 1970. Source: time_bucket's reference."""

BUCKET, SENSOR, READINGS = "bucket", "sensor_id", "readings"


class Partial(StrEnum):
    """What is kept of each measurement. None ends like another, so that no two columns share a name."""

    COUNT = "count"
    SUM = "sum"
    MINIMUM = "min"
    MAXIMUM = "max"
    FIRST = "first"
    FIRST_TIME = "first_time"
    LAST = "last"
    LAST_TIME = "last_time"


def name(interval: timedelta) -> str:
    """Return the name of the rollup with buckets of `interval`, like `rollup_30m`."""
    return PREFIX + durations.text(interval)


def interval_of(view: str) -> timedelta | None:
    """Return the interval of the rollup that is named `view`, None where this is no rollup's name."""
    try:
        interval = durations.parse(view.removeprefix(PREFIX))
    except ValueError:
        return None
    return interval if interval > timedelta() and view == name(interval) else None


def column(measurement: str, partial: Partial) -> str:
    """Return the column of a measurement's partial; a name that would be too long has a hash in its middle."""
    plain = f"{measurement}_{partial}"
    if len(plain) <= IDENTIFIER_BYTES:
        return plain
    digest = hashlib.sha256(measurement.encode()).hexdigest()[:DIGEST_CHARACTERS]
    kept = IDENTIFIER_BYTES - DIGEST_CHARACTERS - len(partial) - 2
    return f"{measurement[:kept]}_{digest}_{partial}"


def columns(measurements: tuple[str, ...]) -> frozenset[str]:
    """Return the columns that a rollup of `measurements` has."""
    partials = (column(measurement, partial) for measurement in measurements for partial in Partial)
    return frozenset({BUCKET, SENSOR, READINGS, *partials})
