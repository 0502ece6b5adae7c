"""Every statement the query service sends. Identifiers go through psycopg.sql, values are parameters.

`Statements` composes them once, for the pipeline's schema and measurements. Two rules shape them:

- The only index is (sensor_id, time DESC). Readings of chosen sensors come from it, sensor by sensor. Readings of
  all sensors in order of time have no index: they are read in steps of a few chunks, so that no statement sorts
  more than the chunks its page lies in.
- Readings with equal (time, sensor_id) are ordered by their measurements. What is equal in all columns cannot be
  told apart, so that is a total order. ctid would not do: it changes when rows are compressed or rewritten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from psycopg import adapters
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from sensorlog_query.aggregates import Aggregate
from sensorlog_query.copy_binary import FIELD_BYTES
from sensorlog_query.packed_rows import NULL
from sensorlog_query.prepared import Prepared
from sensorlog_query.validation import Alignment

Statement = SQL | Composed

BIGINT, TIMESTAMPTZ = adapters.types["int8"], adapters.types["timestamptz"]
FIRST_PAGE_PARAMETERS = {
    "sensor_ids": BIGINT.array_oid,
    "start": TIMESTAMPTZ.oid,
    "end": TIMESTAMPTZ.oid,
    "limit": BIGINT.oid,
    "offset": BIGINT.oid,
}
"""In the order of their numbers."""

SET_STATEMENT_TIMEOUT = SQL("SELECT set_config('statement_timeout', %(milliseconds)s, true)")

SET_SESSION_STATEMENT_TIMEOUT = b"SELECT set_config('statement_timeout', %(milliseconds)s, false)"

# Both need no more than the right to connect. extract gives numeric, whose binary form few drivers know.
REPLAYED = b"""
SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint,
       extract(epoch FROM clock_timestamp() - coalesce(
           pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint())
       ))::float8
WHERE pg_is_in_recovery()
"""

# Only what is flushed is replicated. A transaction that is seen by others and not flushed yet (synchronous_commit off)
# is at most three times wal_writer_delay old.
WRITTEN = b"""
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint END
"""

# Ingest also keeps the ids of sensors that report and never announced themselves: updated_at is -infinity.
CANARIES = SQL("SELECT partition, token, stored_at FROM {canaries} ORDER BY partition")

SENSORS_PAGE = SQL("""
SELECT id, coalesce(type, ''), coalesce(location, '')
FROM {sensors}
WHERE updated_at > '-infinity'
ORDER BY id
LIMIT %(limit)s OFFSET %(offset)s
""")

# The cast fails where the table is missing, which must not look like a table without chunks.
CHUNKS = SQL("""
SELECT range_start, range_end
FROM timescaledb_information.chunks
WHERE hypertable_schema = %(schema)s AND hypertable_name = 'sensor_data'
  AND range_start < %(end)s AND range_end > %(start)s
  AND {readings}::regclass IS NOT NULL
ORDER BY range_start
""")

PAGE = SQL("""
SELECT time, sensor_id, {columns}
FROM {readings}
WHERE time >= %(start)s AND time < %(end)s {after}
ORDER BY {order}
LIMIT %(limit)s OFFSET %(offset)s
""")

# LIMIT inside the join ends each sensor's index scan as soon as it cannot add to the page any more.
PAGE_OF_SENSORS = SQL("""
SELECT reading.*
FROM unnest(%(sensor_ids)s::bigint[]) AS wanted(sensor_id)
CROSS JOIN LATERAL (
    SELECT time, sensor_id, {columns}
    FROM {readings} AS r
    WHERE r.sensor_id = wanted.sensor_id AND time >= %(start)s AND time < %(end)s {after}
    ORDER BY {order}
    LIMIT %(limit)s + %(offset)s
) AS reading
ORDER BY {order}
LIMIT %(limit)s OFFSET %(offset)s
""")

# The fields one after the other, the rows too: see `packed_rows`. The order is that of the rows.
PACKED = SQL("SELECT string_agg({fields}, '') FROM ({rows}) AS packed")

PACKED_KEY = (SQL("timestamptz_send(time)"), SQL("int8send(sensor_id)"))

PACKED_VALUE = SQL("coalesce(float8send({column}), {null})")

# The range bounds `time` already; this leaves out the sensors of the key's own moment that came before it.
AFTER = {
    False: SQL("AND (time <> %(key_time)s OR sensor_id >= %(key_sensor)s)"),
    True: SQL("AND (time <> %(key_time)s OR sensor_id <= %(key_sensor)s)"),
}

COUNT = SQL("SELECT count(*) FROM {readings} WHERE time >= %(start)s AND time < %(end)s")

COUNT_OF_KEY = SQL("SELECT count(*) FROM {readings} WHERE sensor_id = %(key_sensor)s AND time = %(key_time)s")

COUNT_BEFORE_KEY = {
    False: SQL("""
SELECT count(*) FROM {readings}
WHERE time >= %(start)s AND time < %(end)s {of_sensors}
  AND time <= %(key_time)s AND (time < %(key_time)s OR sensor_id < %(key_sensor)s)
"""),
    True: SQL("""
SELECT count(*) FROM {readings}
WHERE time >= %(start)s AND time < %(end)s {of_sensors}
  AND time >= %(key_time)s AND (time > %(key_time)s OR sensor_id > %(key_sensor)s)
"""),
}

OF_SENSORS = SQL("AND sensor_id = ANY(%(sensor_ids)s)")

ZONES = SQL(r"""
SELECT name FROM pg_timezone_names
WHERE name !~ '^(posix|right)/' AND name NOT IN ('Factory', 'localtime', 'posixrules')
""")

# The apache edition's time_bucket; time_bucket_gapfill is licensed. With a zone it counts in the zone's clock time,
# where the hour that comes twice in autumn falls together. Buckets of an hour at most must tell the two apart, and so
# each moment is counted back from by itself.
BUCKET = {
    Alignment.UTC: SQL("time_bucket(%(width)s, {time})"),
    Alignment.CLOCK: SQL(
        "{time} - (({time} AT TIME ZONE %(zone)s::text) - time_bucket(%(width)s, {time} AT TIME ZONE %(zone)s::text))"
    ),
    Alignment.CALENDAR: SQL("time_bucket(%(width)s, {time}, %(zone)s::text)"),
}

# Where a zone's midnight comes twice (America/Havana), PostgreSQL means the later one, when the day has begun already.
BEGINS = SQL("""
CASE WHEN ({bucket} - interval '1 hour') AT TIME ZONE %(zone)s::text = {bucket} AT TIME ZONE %(zone)s::text
THEN {bucket} - interval '1 hour' ELSE {bucket} END
""")

BUCKETS = SQL("""
SELECT {begins} AS begins, {sensor} AS sensor, count(*), {aggregates}
FROM {readings}
WHERE time >= %(start)s AND time < %(end)s {of_sensors}
GROUP BY {bucket}, sensor
ORDER BY begins, sensor
LIMIT %(limit)s
""")

# A step leads from bucket to bucket; where clocks change by less than an hour, a bucket may be met twice.
BEGINNINGS = SQL("""
SELECT DISTINCT {bucket} AS begins
FROM generate_series({first}, %(last)s, %(step)s) AS t(moment)
ORDER BY begins
""")

# In clock time, so that a day is a step whatever its length.
BEGINNINGS_BY_CALENDAR = SQL("""
SELECT DISTINCT {begins} AS begins
FROM generate_series(
    time_bucket(%(width)s, %(start)s AT TIME ZONE %(zone)s::text), %(last)s AT TIME ZONE %(zone)s::text, %(width)s
) AS c(clock)
ORDER BY begins
""")

# Many sensors report in the same second: time alone would leave it to chance whose value is the first or the last.
AGGREGATES = {
    Aggregate.AVERAGE: SQL("avg({column})"),
    Aggregate.MINIMUM: SQL("min({column})"),
    Aggregate.MAXIMUM: SQL("max({column})"),
    Aggregate.FIRST: SQL("first({column}, ROW(time, sensor_id, {column})) FILTER (WHERE {column} IS NOT NULL)"),
    Aggregate.LAST: SQL("last({column}, ROW(time, sensor_id, {column})) FILTER (WHERE {column} IS NOT NULL)"),
}

# Ingest stores the id of every sensor that reports, also of those that never announced themselves.
SENSOR_IDS = SQL("SELECT id FROM {sensors} ORDER BY id LIMIT %(limit)s")

# Sensors with fewer readings have no say.
REACH = SQL("""
SELECT max(reading.time)
FROM unnest(%(sensor_ids)s::bigint[]) AS sample(sensor_id)
CROSS JOIN LATERAL (
    SELECT time
    FROM {readings} AS r
    WHERE r.sensor_id = sample.sensor_id AND time >= %(start)s AND time < %(end)s
    ORDER BY time DESC
    LIMIT 1 OFFSET %(few)s
) AS reading
""")

# Behind ARRAY the planner does not see thousands of ids, each of which it would estimate by itself.
RECENT_READINGS = SQL("""
SELECT DISTINCT ON (sensor_id) time, sensor_id, {columns}
FROM {readings}
WHERE sensor_id = ANY(ARRAY(SELECT unnest(%(sensor_ids)s::bigint[]))) AND time >= %(start)s AND time < %(end)s
ORDER BY sensor_id, {order}
""")

# Within a step of chunks: to look into hundreds of chunks for each sensor costs ten times as much as the newest alone.
# WITH TIES needs no sort per sensor, unlike LIMIT.
LATEST_READINGS = SQL("""
SELECT DISTINCT ON (wanted.sensor_id) reading.time, wanted.sensor_id, {columns}
FROM unnest(%(sensor_ids)s::bigint[]) AS wanted(sensor_id)
CROSS JOIN LATERAL (
    SELECT time, {columns}
    FROM {readings} AS r
    WHERE r.sensor_id = wanted.sensor_id AND time >= %(start)s AND time < %(end)s
    ORDER BY time DESC
    FETCH FIRST 1 ROW WITH TIES
) AS reading
ORDER BY wanted.sensor_id, {order}
""")

# NaN stands for NULL on the wire, and it gives every row of the COPY the same length.
EXPORT = SQL("""
COPY (
    SELECT time, sensor_id, {columns}
    FROM {readings}
    WHERE time >= %(start)s AND time < %(end)s {of_sensors}
    ORDER BY {order}
) TO STDOUT (FORMAT binary)
""")

NOT_NULL = SQL("coalesce({column}, 'NaN')")

# Fails where a table or a column is missing or may not be read; reads nothing.
PROBE = SQL("SELECT time, sensor_id, {columns} FROM {readings} WHERE false")


def _list(parts: Iterable[Composable]) -> Composed:
    return SQL(", ").join(parts)


def _order(measurements: Sequence[str], *, descending: bool, key: Sequence[str] = ("time", "sensor_id")) -> Composed:
    direction = SQL(" DESC" if descending else " ASC")
    return _list(Identifier(name) + direction for name in (*key, *measurements))


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements of one pipeline. Readings come as (time, sensor_id, measurement...) in declared order."""

    schema: str
    measurements: tuple[str, ...]

    @property
    def _readings(self) -> Identifier:
        return Identifier(self.schema, "sensor_data")

    @property
    def _sensors(self) -> Identifier:
        return Identifier(self.schema, "sensors")

    @property
    def _columns(self) -> Composed:
        return _list(Identifier(name) for name in self.measurements)

    def probe(self) -> Composed:
        """Return a statement that fails where the schema is not as the pipeline declares it."""
        return PROBE.format(columns=self._columns, readings=self._readings)

    def sensors_page(self) -> Composed:
        """Return the page of announced sensors."""
        return SENSORS_PAGE.format(sensors=self._sensors)

    def canaries(self) -> Composed:
        """Return the last canary of each partition."""
        return CANARIES.format(canaries=Identifier(self.schema, "canaries"))

    def chunks(self) -> Composed:
        """Return (start, end) of the chunks that overlap `start` to `end`, oldest first; parameter `schema`."""
        return CHUNKS.format(readings=Literal(self._readings.as_string()))

    def page(self, *, of_sensors: bool, descending: bool, after_key: bool) -> Composed:
        """Return the page of readings between `start` and `end`, from the key on where there is one."""
        template = PAGE_OF_SENSORS if of_sensors else PAGE
        return template.format(
            columns=self._columns,
            readings=self._readings,
            order=_order(self.measurements, descending=descending),
            after=AFTER[descending] if after_key else SQL(""),
        )

    def packed_page(self, *, of_sensors: bool, descending: bool, after_key: bool) -> bytes:
        """Return `page` packed into one value, as it is sent."""
        return _packed_page(self, of_sensors=of_sensors, descending=descending, after_key=after_key)

    def first_page_of_sensors(self, *, descending: bool) -> Prepared:
        """Return the packed page of chosen sensors that begins at `start` or `end`."""
        return _first_page_of_sensors(self, descending=descending)

    def packed(self, rows: Composed) -> Composed:
        """Return a statement of readings as one that packs them into one value; see `packed_rows`."""
        null = Literal(NULL.to_bytes(FIELD_BYTES, "big"))
        values = [PACKED_VALUE.format(column=Identifier(name), null=null) for name in self.measurements]
        return PACKED.format(fields=SQL(" || ").join((*PACKED_KEY, *values)), rows=rows)

    def count(self) -> Composed:
        """Return the number of readings between `start` and `end`."""
        return COUNT.format(readings=self._readings)

    def count_of_key(self) -> Composed:
        """Return the number of readings with exactly the key's (time, sensor_id)."""
        return COUNT_OF_KEY.format(readings=self._readings)

    def count_before_key(self, *, of_sensors: bool, descending: bool) -> Composed:
        """Return the number of readings that come before the key."""
        return COUNT_BEFORE_KEY[descending].format(readings=self._readings, of_sensors=_of(of_sensors))

    def buckets(
        self, alignment: Alignment, aggregates: Iterable[Aggregate], *, of_sensors: bool, per_sensor: bool
    ) -> Composed:
        """Return (start of bucket, sensor or NULL, count, values of the first of `aggregates`..., of the second...)."""
        bucket = BUCKET[alignment].format(time=Identifier("time"))
        values = [AGGREGATES[a].format(column=Identifier(name)) for a in aggregates for name in self.measurements]
        return BUCKETS.format(
            begins=BEGINS.format(bucket=bucket) if alignment == Alignment.CALENDAR else bucket,
            bucket=bucket,
            sensor=Identifier("sensor_id") if per_sensor else SQL("NULL::bigint"),
            aggregates=_list(values),
            readings=self._readings,
            of_sensors=_of(of_sensors),
        )

    def beginnings(self, alignment: Alignment) -> Composed:
        """Return the starts of all buckets from that of `start` to that of `last`."""
        if alignment == Alignment.CALENDAR:
            clock = SQL("(clock AT TIME ZONE %(zone)s::text)")
            return BEGINNINGS_BY_CALENDAR.format(begins=BEGINS.format(bucket=clock))
        bucket = BUCKET[alignment]
        return BEGINNINGS.format(
            bucket=bucket.format(time=Identifier("moment")), first=bucket.format(time=SQL("%(start)s"))
        )

    def sensor_ids(self) -> Composed:
        """Return the ids of all sensors, announced or not."""
        return SENSOR_IDS.format(sensors=self._sensors)

    def reach(self) -> Composed:
        """Return the newest moment after which each sensor has at most `few` readings, or NULL; see `latest`."""
        return REACH.format(readings=self._readings)

    def recent(self) -> Composed:
        """Return the last reading between `start` and `end` of each of many sensors, by one scan of that time."""
        return self._last(RECENT_READINGS)

    def latest(self) -> Composed:
        """Return the last reading between `start` and `end` of each of some sensors, looked up one by one."""
        return self._last(LATEST_READINGS)

    def _last(self, template: SQL) -> Composed:
        order = _order(self.measurements, descending=True, key=("time",))
        return template.format(columns=self._columns, readings=self._readings, order=order)

    def export(self, measurements: Sequence[str], *, of_sensors: bool) -> Composed:
        """Return the COPY of time, sensor_id and `measurements`."""
        return EXPORT.format(
            columns=_list(NOT_NULL.format(column=Identifier(name)) for name in measurements),
            readings=self._readings,
            of_sensors=_of(of_sensors),
            order=_order((), descending=False),
        )


# Composed once each: that costs as much as sending them.


@cache
def _packed_page(statements: Statements, *, of_sensors: bool, descending: bool, after_key: bool) -> bytes:
    rows = statements.page(of_sensors=of_sensors, descending=descending, after_key=after_key)
    return statements.packed(rows).as_bytes()


@cache
def _first_page_of_sensors(statements: Statements, *, descending: bool) -> Prepared:
    named = _packed_page(statements, of_sensors=True, descending=descending, after_key=False)
    numbers = {name.encode(): b"$%d" % number for number, name in enumerate(FIRST_PAGE_PARAMETERS, start=1)}
    return Prepared(
        name=b"first_page_descending" if descending else b"first_page",
        text=named % numbers,
        types=tuple(FIRST_PAGE_PARAMETERS.values()),
    )


def _of(of_sensors: bool) -> SQL:  # noqa: FBT001 -- says itself what it is
    return OF_SENSORS if of_sensors else SQL("")
