"""Aggregates per bucket of time."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from prometheus_client import Counter
from psycopg import Cursor
from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedTable

from sensorlog_query.calls import Call
from sensorlog_query.database import Database
from sensorlog_query.errors import InvalidArgumentError, LimitError
from sensorlog_query.microseconds import Moment
from sensorlog_query.readings import Row, cursor
from sensorlog_query.rollups import Rollups
from sensorlog_query.sql import ZONES, Statements
from sensorlog_query.validation import MAX_BUCKETS, UTC, Alignment, BucketsQuery

SHORTEST_PIECE = timedelta(minutes=30)
"""Of a bucket that is cut by a change of clocks: none is by less (Australia/Lord_Howe)."""


class Averages:
    """Answers about buckets."""

    def __init__(self, database: Database, statements: Statements, rolled_up: Counter) -> None:
        self._database = database
        self._statements = statements
        self._rollups = Rollups(statements)
        self._rolled_up = rolled_up
        self._zones: frozenset[str] = frozenset()

    def buckets(self, call: Call, query: BucketsQuery) -> list[Row]:
        """Return (start of bucket, sensor or None, count, values of each of the query's aggregates in turn...).

        By start and sensor. LimitError above MAX_BUCKETS, InvalidArgumentError for a zone the database does not know.
        """
        try:
            return self._answer(call, query)
        except (UndefinedTable, UndefinedColumn, InsufficientPrivilege):
            # A rollup that was there a moment ago is gone or being made again: the readings know as much.
            if not self._rollups.forget():
                raise
        return self._answer(call, query, with_rollups=False)

    def _answer(self, call: Call, query: BucketsQuery, *, with_rollups: bool = True) -> list[Row]:
        with self._database.transaction(call) as connection:
            rows = cursor(connection)
            self._check_zone(rows, query.zone)
            found = self._found(rows, query, with_rollups=with_rollups)
            return self._filled(rows, query, found) if query.fill_gaps else found

    def _check_zone(self, rows: Cursor[Row], zone: str) -> None:
        """Refuse names that are not among the database's: it would take POSIX's too, where UTC+3 is west of London."""
        if zone == UTC:
            return
        if not self._zones:
            self._zones = frozenset(name for (name,) in rows.execute(ZONES))
        if zone not in self._zones:
            raise InvalidArgumentError("time_zone", f"{zone!r} is not known; must be an IANA name like Europe/Berlin")

    def _found(self, rows: Cursor[Row], query: BucketsQuery, *, with_rollups: bool) -> list[Row]:
        selection = query.selection
        parameters = {**_parameters(query), "sensor_ids": list(selection.sensor_ids), "limit": MAX_BUCKETS + 1}
        stitch = self._rollups.stitch(rows, query) if with_rollups else None
        if stitch is None:
            statement = self._statements.buckets(
                query.alignment, query.aggregates, of_sensors=bool(selection.sensor_ids), per_sensor=query.per_sensor
            )
        else:
            statement = self._rollups.statement(stitch, query)
            parameters |= stitch.parameters()
            self._rolled_up.labels(stitch.view).inc()
        found = rows.execute(statement, parameters).fetchall()
        if len(found) > MAX_BUCKETS:
            raise LimitError(f"more than {MAX_BUCKETS} buckets; narrow the range or widen bucket_seconds")
        return found

    def _filled(self, rows: Cursor[Row], query: BucketsQuery, found: Iterable[Row]) -> list[Row]:
        beginnings = rows.execute(self._statements.beginnings(query.alignment), _parameters(query)).fetchall()
        values = len(query.aggregates) * len(self._statements.measurements)
        return filled(found, [start for (start,) in beginnings], _series(query), values)


def _series(query: BucketsQuery) -> Sequence[int | None]:
    return query.selection.sensor_ids if query.per_sensor else (None,)


def _parameters(query: BucketsQuery) -> dict[str, Any]:
    start, end = query.selection.start, query.selection.end
    step = min(query.width, SHORTEST_PIECE) if query.alignment == Alignment.CLOCK else query.width
    return {
        "width": query.width,
        "step": step,
        "zone": query.zone,
        "start": start,
        "end": end,
        "last": Moment(end - 1),
    }


def filled(found: Iterable[Row], beginnings: Iterable[Moment], series: Sequence[int | None], values: int) -> list[Row]:
    """Return `found` with rows of count 0 and that many values None where a bucket of a series is not in it."""
    empty = (0, *[None] * values)
    rows: dict[Row, Row] = {(start, sensor): (start, sensor, *empty) for start in beginnings for sensor in series}
    rows |= {row[:2]: row for row in found}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0], key[1] or 0))]
