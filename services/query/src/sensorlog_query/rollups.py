"""Which rollup answers for buckets, and for which part of a range; the readings answer for the rest.

A rollup will do where its buckets fit into those asked for: in UTC those of a width that is a multiple of its interval;
with a time zone the database is asked. TimescaleDB's catalogs say what of it is valid in the snapshot that the call
reads: see `rollup_sql`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Cursor
from psycopg.sql import Composed

from sensorlog import rollups as shape
from sensorlog_query import rollup_sql
from sensorlog_query.microseconds import Moment
from sensorlog_query.readings import Row
from sensorlog_query.sql import Statements
from sensorlog_query.validation import YEAR_1, YEAR_10000, Alignment, BucketsQuery

Span = tuple[int, int]
"""start <= time < end, in microseconds since 1970."""

REMEMBER_SECONDS = 10.0
"""How long it is remembered which rollups there are. Whether they still are is asked with each call."""

MOST_SPANS = 4
"""Ranges of a rollup in one statement; of more, the largest."""
MOST_FOUND = 64
"""Valid ranges that are looked at, the largest first: some are too small to hold a bucket."""

MICROSECOND = timedelta(microseconds=1)
SECOND_US = timedelta(seconds=1) // MICROSECOND
BEGINNING, END = YEAR_1 * SECOND_US, YEAR_10000 * SECOND_US


@dataclass(frozen=True, slots=True)
class Stitch:
    """What a rollup answers for, and what the readings do."""

    view: str
    rolled_up: tuple[Span, ...]
    raw: tuple[Span, ...]

    def parameters(self) -> dict[str, Moment]:
        """Return the bounds as parameters of the statement."""
        return {
            f"{kind}_{bound}_{i}": Moment(moment)
            for kind, spans in (("rollup", self.rolled_up), ("raw", self.raw))
            for i, span in enumerate(spans)
            for bound, moment in zip(("start", "end"), span, strict=True)
        }


class Rollups:
    """Knows the pipeline's rollups; safe to share between threads."""

    def __init__(self, statements: Statements, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._statements = statements
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[timedelta, ...] = ()
        self._has_pending_ranges = False
        self._known_until = -1.0

    def forget(self) -> bool:
        """Look anew at the next call which rollups there are; return whether any was known."""
        with self._lock:
            known, self._known, self._known_until = self._known, (), -1.0
        return bool(known)

    def stitch(self, rows: Cursor[Row], query: BucketsQuery) -> Stitch | None:
        """Return what a rollup can answer of `query` in the cursor's snapshot, None for nothing of it."""
        fitting = [interval for interval in self._intervals(rows) if query.width % interval == timedelta()]
        for interval in sorted(fitting, reverse=True):
            rolled_up = self._valid(rows, query, interval)
            if rolled_up and self._fits(rows, query, interval, rolled_up):
                selection = query.selection
                return Stitch(shape.name(interval), rolled_up, between(selection.start, selection.end, rolled_up))
        return None

    def _valid(self, rows: Cursor[Row], query: BucketsQuery, interval: timedelta) -> tuple[Span, ...]:
        low, high = int(max(query.selection.start, BEGINNING)), int(min(query.selection.end, END))
        statement = rollup_sql.valid(
            self._statements.schema, shape.name(interval), has_pending_ranges=self._has_pending_ranges
        )
        found = rows.execute(statement, {"low": low, "high": high, "limit": MOST_FOUND}).fetchall()
        return whole_buckets([(start, end) for start, end in found], interval // MICROSECOND)

    @staticmethod
    def _fits(rows: Cursor[Row], query: BucketsQuery, interval: timedelta, spans: Iterable[Span]) -> bool:
        if query.alignment == Alignment.UTC:
            return True
        statement = rollup_sql.fits(query.alignment)
        parameters = {"width": query.width, "zone": query.zone, "interval": interval}
        bounds = [{"start": Moment(start), "end": Moment(end)} for start, end in spans]
        return all(rows.execute(statement, parameters | bound).fetchall() == [(True,)] for bound in bounds)

    def statement(self, stitch: Stitch, query: BucketsQuery) -> Composed:
        """Return the statement that answers `query`, with the stitch's parameters beside those of `buckets`."""
        return rollup_sql.stitched(
            self._statements,
            stitch.view,
            query.alignment,
            query.aggregates,
            raw=len(stitch.raw),
            rolled_up=len(stitch.rolled_up),
            of_sensors=bool(query.selection.sensor_ids),
            per_sensor=query.per_sensor,
        )

    def _intervals(self, rows: Cursor[Row]) -> tuple[timedelta, ...]:
        if self._clock() < self._known_until:
            return self._known
        parameters: dict[str, Any] = {"schema": self._statements.schema}
        found = [
            interval
            for view, columns in rows.execute(rollup_sql.ROLLUPS, parameters)
            if shape.columns(self._statements.measurements).issubset(columns)
            and (interval := shape.interval_of(view)) is not None
        ]
        has_pending_ranges = False
        if found:
            (has_pending_ranges,) = rows.execute(rollup_sql.HAS_PENDING_RANGES).fetchall()[0]
        with self._lock:
            self._known = tuple(found)
            self._has_pending_ranges = has_pending_ranges
            self._known_until = self._clock() + REMEMBER_SECONDS
        return tuple(found)


def whole_buckets(spans: Iterable[Span], interval: int) -> tuple[Span, ...]:
    """Return what of `spans` is whole buckets of `interval` microseconds: the MOST_SPANS largest, in order."""
    inner = ((_aligned(start + interval - 1, interval), _aligned(end, interval)) for start, end in spans)
    whole = sorted((span for span in inner if span[0] < span[1]), key=lambda span: span[0] - span[1])
    return tuple(sorted(whole[:MOST_SPANS]))


def _aligned(moment: int, interval: int) -> int:
    return moment - (moment - shape.ORIGIN_US) % interval


def between(start: int, end: int, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return what of `start` to `end` is in none of `spans`, which are in order and do not overlap."""
    starts = [start, *(after for _, after in spans)]
    ends = [*(before for before, _ in spans), end]
    return tuple(gap for gap in zip(starts, ends, strict=True) if gap[0] < gap[1])
