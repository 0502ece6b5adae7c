"""The statements that answer from a rollup what it holds, and from the readings what it does not hold or not yet.

A rollup's rows are right but for what TimescaleDB notes in its logs: what was never computed, and what was written,
changed or deleted since. It notes both in the transaction that does it, and so a snapshot sees both or none: what the
logs do not name is as good as the readings themselves. Source: the README of continuous_aggs in TimescaleDB's sources.
"""

from collections.abc import Iterable, Iterator, Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from sensorlog import rollups
from sensorlog.rollups import Partial
from sensorlog_query.aggregates import Aggregate
from sensorlog_query.sql import BEGINS, BUCKET, OF_SENSORS, Statements
from sensorlog_query.validation import Alignment

READINGS = "sensor_data"

# Rollups are those continuous aggregates that the operator names so, with their columns.
ROLLUPS = SQL("""
SELECT c.user_view_name::text,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = to_regclass(format('%%I.%%I', c.user_view_schema, c.user_view_name))
               AND a.attnum > 0 AND NOT a.attisdropped)
FROM _timescaledb_catalog.continuous_agg c
JOIN _timescaledb_catalog.hypertable h ON h.id = c.raw_hypertable_id
WHERE h.schema_name = %(schema)s AND h.table_name = 'sensor_data' AND c.user_view_schema = %(schema)s
""")

# Since 2.21 what is being refreshed is noted here, and no longer in the log.
HAS_PENDING_RANGES = SQL("""
SELECT to_regclass('_timescaledb_catalog.continuous_aggs_materialization_ranges') IS NOT NULL
""")

PENDING_RANGES = SQL("""
    UNION ALL
    SELECT lowest_modified_value, greatest_modified_value
    FROM _timescaledb_catalog.continuous_aggs_materialization_ranges JOIN rollup ON materialization_id = kept_in
""")

# Names are looked up as they are now, rows as of the snapshot. To read the view locks it, which must come first: if it
# was dropped or made again since the snapshot, name and row disagree, and nothing is valid.
VALID = SQL("""
WITH locked AS (
    SELECT FROM {view} WHERE false
), rollup AS (
    SELECT a.mat_hypertable_id AS kept_in, a.raw_hypertable_id AS made_of
    FROM _timescaledb_catalog.continuous_agg a
    JOIN pg_namespace n ON n.nspname = a.user_view_schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = a.user_view_name
    WHERE c.oid = {view_name}::regclass AND NOT EXISTS (SELECT FROM locked)
), invalid(low, high) AS (
    SELECT lowest_modified_value, greatest_modified_value
    FROM _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log JOIN rollup ON hypertable_id = made_of
    UNION ALL
    SELECT lowest_modified_value, greatest_modified_value
    FROM _timescaledb_catalog.continuous_aggs_materialization_invalidation_log
    JOIN rollup ON materialization_id = kept_in
    {pending}
)
SELECT lower(span), upper(span)
FROM rollup, unnest(
    int8multirange(int8range(%(low)s::int8, %(high)s::int8)) - coalesce((
        SELECT range_agg(int8range(greatest(low, %(low)s::int8), least(high, %(high)s::int8 - 1) + 1))
        FROM invalid WHERE low <= high AND low < %(high)s::int8 AND high >= %(low)s::int8
    ), '{{}}'::int8multirange)
) AS span
ORDER BY upper(span) - lower(span) DESC
LIMIT %(limit)s
""")

# One shape for both: a reading counts as the rollup of itself.
STITCHED = SQL("""
SELECT {begins} AS begins, {sensor} AS sensor, sum(readings)::bigint, {aggregates}
FROM ({parts}) AS parts
GROUP BY {bucket}, sensor
ORDER BY begins, sensor
LIMIT %(limit)s
""")

# Whether each of the rollup's buckets lies in one of those asked for: its first moment does as its last does.
FITS = SQL("""
SELECT bool_and({first} = {last})
FROM generate_series(%(start)s, %(end)s - %(interval)s::interval, %(interval)s::interval) AS of_rollup(moment)
""")
LAST_MOMENT = SQL("(moment + %(interval)s::interval - interval '1 microsecond')")

RAW_PART = SQL("""
SELECT time AS moment, sensor_id, 1::bigint AS readings, {columns}
FROM {readings} WHERE time >= {start} AND time < {end} {of_sensors}
""")

ROLLUP_PART = SQL("""
SELECT bucket, sensor_id, readings, {columns}
FROM {view} WHERE bucket >= {start} AND bucket < {end} {of_sensors}
""")

OF_READING = {
    Partial.COUNT: SQL("({m} IS NOT NULL)::int::bigint"),
    Partial.SUM: SQL("{m}"),
    Partial.MINIMUM: SQL("{m}"),
    Partial.MAXIMUM: SQL("{m}"),
    Partial.FIRST: SQL("{m}"),
    Partial.FIRST_TIME: SQL("time"),
    Partial.LAST: SQL("{m}"),
    Partial.LAST_TIME: SQL("time"),
}

NEEDED = {
    Aggregate.AVERAGE: (Partial.COUNT, Partial.SUM),
    Aggregate.MINIMUM: (Partial.MINIMUM,),
    Aggregate.MAXIMUM: (Partial.MAXIMUM,),
    Aggregate.FIRST: (Partial.FIRST, Partial.FIRST_TIME),
    Aggregate.LAST: (Partial.LAST, Partial.LAST_TIME),
}

# The sum of counts in double precision is exact up to 2^53; that of bigint would be numeric, which is slow.
COMBINED = {
    Aggregate.AVERAGE: SQL("sum({sum}) / nullif(sum({count}::double precision), 0)"),
    Aggregate.MINIMUM: SQL("min({min})"),
    Aggregate.MAXIMUM: SQL("max({max})"),
    Aggregate.FIRST: SQL("first({first}, ROW({first_time}, sensor_id, {first})) FILTER (WHERE {first} IS NOT NULL)"),
    Aggregate.LAST: SQL("last({last}, ROW({last_time}, sensor_id, {last})) FILTER (WHERE {last} IS NOT NULL)"),
}


def valid(schema: str, view: str, *, has_pending_ranges: bool) -> Composed:
    """Return the statement of (start, end), in microseconds since 1970, of what a rollup knows of `low` to `high`."""
    qualified = Identifier(schema, view)
    return VALID.format(
        view=qualified,
        view_name=Literal(qualified.as_string()),
        pending=PENDING_RANGES if has_pending_ranges else SQL(""),
    )


def fits(alignment: Alignment) -> Composed:
    """Return whether the rollup's buckets of `interval` from `start` to `end` all fit into those asked for."""
    bucket = BUCKET[alignment]
    return FITS.format(first=bucket.format(time=Identifier("moment")), last=bucket.format(time=LAST_MOMENT))


def stitched(
    statements: Statements,
    view: str,
    alignment: Alignment,
    aggregates: Sequence[Aggregate],
    *,
    raw: int,
    rolled_up: int,
    of_sensors: bool,
    per_sensor: bool,
) -> Composed:
    """Return what `Statements.buckets` returns, of that many ranges of the readings and of the rollup.

    Their bounds are the parameters raw_start_0, raw_end_0, ... and rollup_start_0, rollup_end_0, ...
    """
    chosen = OF_SENSORS if of_sensors else SQL("")
    measurements, schema = statements.measurements, statements.schema
    bucket = BUCKET[alignment].format(time=Identifier("moment"))
    needed = [(name, partial) for a in aggregates for name in measurements for partial in NEEDED[a]]
    of_reading = _list(
        SQL("{} AS {}").format(OF_READING[partial].format(m=Identifier(name)), _column(name, partial))
        for name, partial in needed
    )
    of_rollup = _list(_column(name, partial) for name, partial in needed)
    parts = [
        *(
            RAW_PART.format(columns=of_reading, readings=Identifier(schema, READINGS), of_sensors=chosen, **bounds)
            for bounds in _bounds("raw", raw)
        ),
        *(
            ROLLUP_PART.format(columns=of_rollup, view=Identifier(schema, view), of_sensors=chosen, **bounds)
            for bounds in _bounds("rollup", rolled_up)
        ),
    ]
    return STITCHED.format(
        begins=BEGINS.format(bucket=bucket) if alignment == Alignment.CALENDAR else bucket,
        bucket=bucket,
        sensor=SQL("sensor_id") if per_sensor else SQL("NULL::bigint"),
        aggregates=_list(_combined(aggregate, name) for aggregate in aggregates for name in measurements),
        parts=SQL("UNION ALL").join(parts),
    )


def _bounds(kind: str, count: int) -> Iterator[dict[str, SQL]]:
    for i in range(count):
        yield {"start": _parameter(f"{kind}_start_{i}"), "end": _parameter(f"{kind}_end_{i}")}


def _parameter(name: str) -> SQL:
    return SQL(f"%({name})s")  # a name of this module's making


def _combined(aggregate: Aggregate, measurement: str) -> Composed:
    columns = {partial.value: _column(measurement, partial) for partial in NEEDED[aggregate]}
    return COMBINED[aggregate].format(**columns)


def _column(measurement: str, partial: Partial) -> Identifier:
    return Identifier(rollups.column(measurement, partial))


def _list(parts: Iterable[Composed | Identifier]) -> Composed:
    return SQL(", ").join(parts)
