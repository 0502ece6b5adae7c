"""Aggregates per bucket of time."""

from sensorlog_query.calls import Call
from sensorlog_query.database import Database
from sensorlog_query.errors import LimitError
from sensorlog_query.readings import MAX_RESULTS, Row, cursor
from sensorlog_query.sql import Statements
from sensorlog_query.validation import BucketsQuery


class Averages:
    """Answers about buckets."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements

    def averages(self, call: Call, query: BucketsQuery) -> list[Row]:
        """Return (bucket, sensor or None, count, average...) by bucket and sensor; LimitError above MAX_RESULTS."""
        return self._buckets(call, query, latest=False)

    def averages_and_latest(self, call: Call, query: BucketsQuery) -> list[Row]:
        """Return as `averages`, followed by the latest value of each measurement."""
        return self._buckets(call, query, latest=True)

    def _buckets(self, call: Call, query: BucketsQuery, *, latest: bool) -> list[Row]:
        selection = query.selection
        statement = self._statements.buckets(
            of_sensors=bool(selection.sensor_ids), per_sensor=query.per_sensor, latest=latest
        )
        parameters = {
            "width": query.width,
            "start": selection.start,
            "end": selection.end,
            "sensor_ids": list(selection.sensor_ids),
            "limit": MAX_RESULTS + 1,
        }
        with self._database.transaction(call) as connection:
            rows = cursor(connection).execute(statement, parameters).fetchall()
        if len(rows) > MAX_RESULTS:
            raise LimitError(f"more than {MAX_RESULTS} buckets; narrow the range or widen bucket_seconds")
        return rows
