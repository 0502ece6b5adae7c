"""Single readings: pages in order of time, and the last of each sensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Connection, Cursor
from psycopg.sql import Composed

from sensorlog_query import packed_rows, page_token
from sensorlog_query.calls import Call
from sensorlog_query.chunks import chunks_of, steps
from sensorlog_query.copy_binary import Block
from sensorlog_query.database import Database
from sensorlog_query.latest import LatestReader
from sensorlog_query.microseconds import Moment
from sensorlog_query.page_token import Position
from sensorlog_query.sql import Statements
from sensorlog_query.validation import Page, ReadingsQuery, Selection

Row = tuple[Any, ...]
"""(time in microseconds since 1970, sensor_id, one value or None per measurement)."""


@dataclass(frozen=True, slots=True)
class ReadingsPage:
    """Rows, and the token of what follows them; empty after the last page."""

    rows: Block
    next_page_token: str


def cursor(connection: Connection[Any]) -> Cursor[Row]:
    """Return a cursor that speaks PostgreSQL's binary format, as `Moment` needs."""
    return connection.cursor(binary=True)


class Readings:
    """Answers about single readings."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements

    def sensors(self, call: Call, page: Page) -> list[Row]:
        """Return (id, type, location) of announced sensors, by id."""
        with self._database.transaction(call) as connection:
            parameters = {"limit": page.size, "offset": page.offset}
            return cursor(connection).execute(self._statements.sensors_page(), parameters).fetchall()

    def canaries(self, call: Call) -> list[Row]:
        """Return (partition, token, time stored) of the last canary of each partition."""
        with self._database.transaction(call) as connection:
            return cursor(connection).execute(self._statements.canaries()).fetchall()

    def latest(self, call: Call, sensor_ids: Sequence[int]) -> list[Row]:
        """Return the last reading of each sensor, by sensor_id; LimitError above MAX_RESULTS."""
        with self._database.transaction(call) as connection:
            return LatestReader(cursor(connection), self._statements, call.remaining_seconds).read(sensor_ids)

    def page(self, call: Call, query: ReadingsQuery) -> ReadingsPage:
        """Return a page of readings in order of (time, sensor_id)."""
        if query.selection.sensor_ids and query.position is None and not query.page.offset:
            return self._first_of_sensors(call, query)
        with self._database.transaction(call) as connection:
            return _PageReader(cursor(connection), self._statements, query, call.remaining_seconds).read()

    def _first_of_sensors(self, call: Call, query: ReadingsQuery) -> ReadingsPage:
        """Return the first page of chosen sensors, of which most callers want no other: one statement finds it."""
        selection, wanted = query.selection, query.page.size + 1
        statement = self._statements.first_page_of_sensors(descending=query.descending)
        parameters = (selection.sensor_ids, selection.start, selection.end, wanted, 0)
        value = self._database.value(call, statement, parameters)
        rows = packed_rows.unpacked(value, len(self._statements.measurements))
        page = rows[: wanted - 1]
        if len(rows) < wanted:
            return ReadingsPage(page, "")
        position = Position(*packed_rows.last_key(page), packed_rows.trailing(page))
        return ReadingsPage(page, page_token.encode(position, query.fingerprint))


class _PageReader:
    """Reads one page within one transaction. `check` raises when the call is over."""

    def __init__(
        self, rows: Cursor[Row], statements: Statements, query: ReadingsQuery, check: Callable[[], object]
    ) -> None:
        self._cursor = rows
        self._statements = statements
        self._query = query
        self._check = check
        self._range = _from(query.selection, query.position, descending=query.descending)

    def read(self) -> ReadingsPage:
        """Return the page. One row more than it holds is read, to know whether another follows."""
        wanted = self._query.page.size + 1
        rows = self._of_sensors(wanted) if self._range.sensor_ids else self._of_all(wanted)
        page = rows[: wanted - 1]
        follows = len(rows) == wanted
        token = page_token.encode(self._position(page), self._query.fingerprint) if follows else ""
        return ReadingsPage(page, token)

    def _of_sensors(self, wanted: int) -> Block:
        """Return rows of chosen sensors: the index has them in order, sensor by sensor."""
        offset = self._query.page.offset or self._returned_before()
        return self._fetch(self._range, wanted, offset)

    def _of_all(self, wanted: int) -> Block:
        """Return rows of all sensors, in steps of chunks until there are enough."""
        chunks = chunks_of(self._cursor, self._statements, self._range)
        remaining = list(steps(chunks, descending=self._query.descending))
        remaining, offset = self._skip(remaining) if self._query.page.offset else (remaining, self._returned_before())
        parts: list[Block] = []
        for step in remaining:
            self._check()
            parts.append(self._fetch(step, wanted, offset))
            offset = 0
            wanted -= len(parts[-1])
            if not wanted:
                break
        return packed_rows.joined(parts, len(self._statements.measurements))

    def _skip(self, ahead: list[Selection]) -> tuple[list[Selection], int]:
        """Return what is left of `ahead` after a numbered page's offset, and of the offset in the first of them.

        Numbered pages must count what they skip; page tokens need not.
        """
        offset = self._query.page.offset
        for i, step in enumerate(ahead):
            self._check()
            count = self._number(self._statements.count(), _bounds(step))
            if offset < count:
                return ahead[i:], offset
            offset -= count
        return [], 0

    def _fetch(self, selection: Selection, limit: int, offset: int) -> Block:
        query = self._query
        statement = self._statements.packed_page(
            of_sensors=bool(selection.sensor_ids),
            descending=query.descending,
            after_key=query.position is not None,
        )
        parameters = {**_bounds(selection), **_key(query.position), "limit": limit, "offset": offset}
        [(value,)] = self._cursor.execute(statement, parameters).fetchall()
        return packed_rows.unpacked(value, len(self._statements.measurements))

    def _returned_before(self) -> int:
        """Return how many rows of the position's own key to pass over.

        Not more than there are: retention may have dropped them since.
        """
        position = self._query.position
        if position is None:
            return 0
        return min(position.returned, self._number(self._statements.count_of_key(), _key(position)))

    def _position(self, page: Block) -> Position:
        """Return where `page` ends."""
        time, sensor_id = packed_rows.last_key(page)
        returned = packed_rows.trailing(page)
        before = self._query.position
        if returned == len(page):  # the page is all one key, which may have begun on an earlier page
            if before is not None and (before.time, before.sensor_id) == (time, sensor_id):
                returned += before.returned
            elif self._query.page.offset:
                returned = self._query.page.offset + len(page) - self._count_before(time, sensor_id)
        return Position(time, sensor_id, returned)

    def _count_before(self, time: Moment, sensor_id: int) -> int:
        selection = self._query.selection
        statement = self._statements.count_before_key(
            of_sensors=bool(selection.sensor_ids), descending=self._query.descending
        )
        return self._number(statement, {**_bounds(selection), **_key(Position(time, sensor_id, 0))})

    def _number(self, statement: Composed, parameters: dict[str, Any]) -> int:
        row = self._cursor.execute(statement, parameters).fetchone()
        return int(row[0]) if row else 0


def _from(selection: Selection, position: Position | None, *, descending: bool) -> Selection:
    """Return what of `selection` is not before `position`; a microsecond is timestamptz's smallest step."""
    if position is None:
        return selection
    if descending:
        return replace(selection, end=min(selection.end, Moment(position.time + 1)))
    return replace(selection, start=max(selection.start, position.time))


def _bounds(selection: Selection) -> dict[str, Any]:
    return {"start": selection.start, "end": selection.end, "sensor_ids": list(selection.sensor_ids)}


def _key(position: Position | None) -> dict[str, Any]:
    return {"key_time": position.time, "key_sensor": position.sensor_id} if position else {}
