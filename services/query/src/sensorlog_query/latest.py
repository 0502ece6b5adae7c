"""The last reading of each sensor.

To look one sensor up in the index costs ten times as much as to read the next row of a scan. So many sensors are asked
for at once, in one scan of the index over the end of the time. How far back that reaches is learnt from a sample of
them: as far as none of them has more than a few readings. Whoever reports as often as these, or a few times less, is
found by it; only the others are looked up one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from psycopg import Cursor
from psycopg.rows import TupleRow
from psycopg.sql import Composed

from sensorlog_query.chunks import chunks_of, steps
from sensorlog_query.errors import LimitError
from sensorlog_query.microseconds import BEGINNING, END, Moment
from sensorlog_query.sql import Statements
from sensorlog_query.validation import Selection

MAX_RESULTS = 100_000
"""Sensors of a reply."""

MANY = 500
"""Sensors from which on a scan pays."""
SAMPLE = 64
"""Sensors that tell how far back the scan reaches."""
FEW = 2
"""Readings of each of the sample that the scan reads at most, but for those at one moment."""

SENSOR = 1
"""The column of a reading's sensor_id."""


class LatestReader:
    """Reads within one transaction. `check` raises when the call is over."""

    def __init__(self, rows: Cursor[TupleRow], statements: Statements, check: Callable[[], object]) -> None:
        self._cursor = rows
        self._statements = statements
        self._check = check

    def read(self, sensor_ids: Sequence[int]) -> list[TupleRow]:
        """Return the last reading of these sensors, or of all, by sensor_id; LimitError above MAX_RESULTS."""
        missing = tuple(sensor_ids) or self._all()
        found: list[TupleRow] = []
        chunks = chunks_of(self._cursor, self._statements, Selection(BEGINNING, END, ()))
        for step in steps(chunks, descending=True):
            if len(missing) >= MANY:
                since = self.reach(replace(step, sensor_ids=missing))
                found += self._ask(self._statements.recent(), replace(step, start=since, sensor_ids=missing))
                missing = _without(missing, found)
            if missing:
                found += self._ask(self._statements.latest(), replace(step, sensor_ids=missing))
                missing = _without(missing, found)
            if not missing:
                break
        return sorted(found, key=itemgetter(SENSOR))

    def reach(self, selection: Selection) -> Moment:
        """Return since when a sample of the selection's sensors has at most FEW readings each."""
        sample = replace(selection, sensor_ids=sample_of(selection.sensor_ids))
        [(moment,)] = self._ask(self._statements.reach(), sample)
        return selection.start if moment is None else Moment(moment + 1)

    def _ask(self, statement: Composed, selection: Selection) -> list[TupleRow]:
        self._check()
        return self._cursor.execute(statement, parameters(selection)).fetchall()

    def _all(self) -> tuple[int, ...]:
        rows = self._cursor.execute(self._statements.sensor_ids(), {"limit": MAX_RESULTS + 1}).fetchall()
        if len(rows) > MAX_RESULTS:
            raise LimitError(f"more than {MAX_RESULTS} sensors; name some in sensor_ids")
        return tuple(sensor_id for (sensor_id,) in rows)


def sample_of(sensor_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return SAMPLE of the sensors or a few more, from the lowest id to the highest."""
    return sensor_ids[:: max(1, len(sensor_ids) // SAMPLE)]


def parameters(selection: Selection) -> dict[str, Any]:
    """Return the parameters of the statements of this module."""
    return {
        "start": selection.start,
        "end": selection.end,
        "sensor_ids": list(selection.sensor_ids),
        "few": FEW,
    }


def _without(sensor_ids: Sequence[int], found: Sequence[TupleRow]) -> tuple[int, ...]:
    reported = {row[SENSOR] for row in found}
    return tuple(sensor_id for sensor_id in sensor_ids if sensor_id not in reported)
