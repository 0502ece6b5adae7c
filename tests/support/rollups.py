"""A continuous aggregate without the license for it: its catalogs, and a refresh that keeps them as TimescaleDB does.

The tables, the logs and their rules are those of TimescaleDB (tsl/src/continuous_aggs in its sources):

- A write below the invalidation threshold is noted in the hypertable's log, in the transaction that writes.
- A refresh moves the threshold, moves what is noted of the hypertable to the logs of all its continuous aggregates, and
  computes again what the log of its own holds of the window; the rest stays noted. At first a log holds all of time.

The rows themselves come from the definition that the operator would send.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from sensorlog import rollups as shape
from sensorlog_operator import features
from sensorlog_operator.schema import Execute
from support.pipelines import Pipeline
from support.query import EPOCH, Reading

SMALLEST, LARGEST = -(2**63), 2**63 - 1
LICENSED = features.ObservedFeatures("timescale", (2, 19, 3))
SECOND_US = 1_000_000

Span = tuple[int, int]
"""Both ends belong to it, in microseconds since 1970, as in the logs."""


@dataclass
class SimulatedRollup:
    """A rollup of a pipeline's readings."""

    pipeline: Pipeline
    interval: timedelta
    measurements: tuple[str, ...] = ("temperature", "cpu")

    @property
    def name(self) -> str:
        """The name of its view."""
        return shape.name(self.interval)

    def create(self) -> None:
        """Make the view, empty, and note that nothing is in it."""
        schema, kept = self.pipeline.schema, f"_kept_{self.name}"
        with self.pipeline.database.connect() as connection, connection.transaction():
            for statement in (
                f"CREATE VIEW {schema}._direct_{self.name} AS {self._definition()}",
                f"CREATE TABLE {schema}.{kept} AS SELECT * FROM {schema}._direct_{self.name} WITH NO DATA",
                f"SELECT create_hypertable('{schema}.{kept}', 'bucket')",
                f"CREATE VIEW {schema}.{self.name} AS SELECT * FROM {schema}.{kept}",
            ):
                connection.execute(statement.encode())
            connection.execute(_REGISTER, {"schema": schema, "kept": kept, "view": self.name})
            connection.execute(_BUCKETS, {"schema": schema, "view": self.name, "width": str(self.interval)})
            connection.execute(_INVALIDATE_ALL, {"schema": schema, "view": self.name})

    def drop(self) -> None:
        """Take the rollup away, with all that is noted of it."""
        with self.pipeline.database.connect() as connection, connection.transaction():
            kept, _ = self._ids(connection)
            connection.execute("DELETE FROM _timescaledb_catalog.continuous_agg WHERE mat_hypertable_id = %s", [kept])
            for kind, name in (("VIEW", self.name), ("TABLE", f"_kept_{self.name}"), ("VIEW", f"_direct_{self.name}")):
                connection.execute(f"DROP {kind} {self.pipeline.schema}.{name}".encode())

    def _definition(self) -> str:
        desired = features.DesiredFeatures(self.pipeline.schema, self.measurements, rollups=(self.interval,))
        create = features.plan(desired, LICENSED)[0]
        assert isinstance(create, Execute)
        return create.statement.as_string().partition(" AS\n")[2].removesuffix("WITH NO DATA\n")

    def refresh(self, start: int, end: int) -> None:
        """Bring whole buckets of `start` to `end`, in seconds, up to date: CALL refresh_continuous_aggregate."""
        width = self.interval // timedelta(microseconds=1)
        window = (_floor(start * SECOND_US + width - 1, width), _floor(end * SECOND_US, width) - 1)
        with self.pipeline.database.connect() as connection:
            with connection.transaction():
                self._move_threshold(connection, window[1] + 1)
                self._move_log(connection)
            with connection.transaction():
                self._refresh(connection, window)

    def _ids(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, int]:
        row = connection.execute(_IDS, {"schema": self.pipeline.schema, "view": self.name}).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def _move_threshold(self, connection: psycopg.Connection[TupleRow], end: int) -> None:
        connection.execute(_THRESHOLD, {"raw": self._ids(connection)[1], "end": end})

    def _move_log(self, connection: psycopg.Connection[TupleRow]) -> None:
        """Note for every rollup of the readings what was noted of these."""
        raw = self._ids(connection)[1]
        noted = connection.execute(_TAKE_RAW, {"raw": raw}).fetchall()
        for kept, view in connection.execute(_SIBLINGS, {"raw": raw}).fetchall():
            interval = shape.interval_of(view)
            assert interval is not None
            width = interval // timedelta(microseconds=1)
            for low, high in noted:
                expanded = {"low": _floor(low, width), "high": _floor(high, width) + width - 1}
                connection.execute(_NOTE, {"kept": kept, **expanded})

    def _refresh(self, connection: psycopg.Connection[TupleRow], window: Span) -> None:
        kept, _ = self._ids(connection)
        schema = self.pipeline.schema
        for low, high in connection.execute(_TAKE, {"kept": kept}).fetchall():
            inner = (max(low, window[0]), min(high, window[1]))
            outside = [(low, high)] if inner[0] > inner[1] else [(low, inner[0] - 1), (inner[1] + 1, high)]
            for rest in outside:
                if rest[0] <= rest[1]:
                    connection.execute(_NOTE, {"kept": kept, "low": rest[0], "high": rest[1]})
            if inner[0] > inner[1]:
                continue
            bounds = [_moment(inner[0]), _moment(inner[1])]
            within = "WHERE bucket BETWEEN %s AND %s"
            connection.execute(f"DELETE FROM {schema}._kept_{self.name} {within}".encode(), bounds)
            connection.execute(
                f"INSERT INTO {schema}._kept_{self.name} SELECT * FROM {schema}._direct_{self.name} {within}".encode(),
                bounds,
            )


def write(pipeline: Pipeline, readings: Iterable[Reading]) -> None:
    """Store readings in one transaction, with the note that TimescaleDB makes of those below the threshold."""
    rows = list(readings)
    low, high = min(row[0] for row in rows) * SECOND_US, max(row[0] for row in rows) * SECOND_US
    with pipeline.database.connect() as connection, connection.transaction():
        with connection.cursor().copy(f"COPY {pipeline.schema}.sensor_data FROM STDIN".encode()) as copy:
            for ts, sensor, values in rows:
                copy.write_row((EPOCH + timedelta(seconds=ts), sensor, *values))
        connection.execute(_INVALIDATE, {"schema": pipeline.schema, "low": low, "high": high})


def _floor(moment: int, width: int) -> int:
    return moment - (moment - shape.ORIGIN_US) % width


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


_REGISTER = """
INSERT INTO _timescaledb_catalog.continuous_agg (mat_hypertable_id, raw_hypertable_id, user_view_schema,
    user_view_name, partial_view_schema, partial_view_name, direct_view_schema, direct_view_name, materialized_only)
SELECT k.id, r.id, k.schema_name, %(view)s::text, k.schema_name, '_direct_' || %(view)s::text,
       k.schema_name, '_direct_' || %(view)s::text, true
FROM _timescaledb_catalog.hypertable k, _timescaledb_catalog.hypertable r
WHERE (k.schema_name, k.table_name) = (%(schema)s, %(kept)s)
  AND (r.schema_name, r.table_name) = (%(schema)s, 'sensor_data')
"""

_BUCKETS = """
INSERT INTO _timescaledb_catalog.continuous_aggs_bucket_function
    (mat_hypertable_id, bucket_func, bucket_width, bucket_fixed_width)
SELECT mat_hypertable_id, 'time_bucket(interval,timestamp with time zone)'::regprocedure::text, %(width)s, true
FROM _timescaledb_catalog.continuous_agg WHERE (user_view_schema, user_view_name) = (%(schema)s, %(view)s)
"""

_IDS = """
SELECT mat_hypertable_id, raw_hypertable_id FROM _timescaledb_catalog.continuous_agg
WHERE (user_view_schema, user_view_name) = (%(schema)s, %(view)s)
"""

_SIBLINGS = """
SELECT mat_hypertable_id, user_view_name FROM _timescaledb_catalog.continuous_agg WHERE raw_hypertable_id = %(raw)s
"""

_INVALIDATE_ALL = f"""
INSERT INTO _timescaledb_catalog.continuous_aggs_materialization_invalidation_log
SELECT mat_hypertable_id, {SMALLEST}, {LARGEST} FROM _timescaledb_catalog.continuous_agg
WHERE (user_view_schema, user_view_name) = (%(schema)s, %(view)s)
"""

_THRESHOLD = """
INSERT INTO _timescaledb_catalog.continuous_aggs_invalidation_threshold AS t (hypertable_id, watermark)
VALUES (%(raw)s, %(end)s)
ON CONFLICT (hypertable_id) DO UPDATE SET watermark = greatest(t.watermark, excluded.watermark)
"""

_TAKE_RAW = """
DELETE FROM _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log WHERE hypertable_id = %(raw)s
RETURNING lowest_modified_value, greatest_modified_value
"""

_TAKE = """
DELETE FROM _timescaledb_catalog.continuous_aggs_materialization_invalidation_log WHERE materialization_id = %(kept)s
RETURNING lowest_modified_value, greatest_modified_value
"""

_NOTE = """
INSERT INTO _timescaledb_catalog.continuous_aggs_materialization_invalidation_log
VALUES (%(kept)s, %(low)s, %(high)s)
"""

_INVALIDATE = """
INSERT INTO _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log
SELECT t.hypertable_id, %(low)s, %(high)s
FROM _timescaledb_catalog.continuous_aggs_invalidation_threshold t
JOIN _timescaledb_catalog.hypertable h ON h.id = t.hypertable_id
WHERE (h.schema_name, h.table_name) = (%(schema)s, 'sensor_data') AND %(low)s < t.watermark
"""
