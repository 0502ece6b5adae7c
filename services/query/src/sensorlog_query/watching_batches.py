"""Which batches were committed since a position, and their readings: a connection of its own to `ingest_batches`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.errors import FeatureNotSupported, QueryCanceled

from sensorlog_query import packed_rows, watching_sql
from sensorlog_query.connections import ReadConnection, configure
from sensorlog_query.copy_binary import Block
from sensorlog_query.errors import UnavailableError
from sensorlog_query.microseconds import Moment
from sensorlog_query.sql import Statements
from sensorlog_query.staleness import Sample, sample
from sensorlog_query.watching_position import Batch, Position

READ_SECONDS = 3.0
"""What a statement may take, such as finding a batch's readings: all watches wait for it."""

TOO_SLOW = "the database did not say in time what was stored; resume with the last token"

KEPT_US = 3_600_000_000
"""How long ingest keeps batches in `ingest_batches`, in microseconds."""

RESUMABLE_US = 3_000_000_000
"""How old a position may be, in microseconds. Less, because what was committed after it may have begun before."""


class UnreadableError(Exception):
    """A batch's readings cannot be found in time, or not at all: compressed ones have no xmin."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was committed since a position, by id, and the position after it.

    `is_expired`: some of it may be forgotten already. `is_other`: it is not the database that the position is of.
    Then `batches` is empty, and `position` is where the database is now. `staleness` is how old at most its data were,
    in milliseconds.
    """

    position: Position
    staleness: int
    batches: Sequence[Batch] = ()
    is_expired: bool = False
    is_other: bool = False


class BatchLog:
    """Looks at the batches of one pipeline, on a connection that is its own until it is closed by whoever opened it.

    `staleness_of` says how old at most the data of a server are, in milliseconds. All methods raise psycopg.Error, and
    UnavailableError where an answer takes too long.
    """

    def __init__(
        self, connection: ReadConnection, statements: Statements, staleness_of: Callable[[Sample], int]
    ) -> None:
        self._connection = connection
        self._staleness_of = staleness_of
        configure(self._connection)
        self._connection.bound_statements(READ_SECONDS)
        self._look = watching_sql.look(statements.schema)
        self._start = watching_sql.start(statements.schema)
        self._readings = {chosen: watching_sql.readings(statements, of_sensors=chosen) for chosen in (True, False)}
        self._measurements = len(statements.measurements)

    def start(self) -> Position:
        """Return the position after everything there is."""
        return _after(Position(), self._rows(self._start, Position()))[0]

    def look(self, position: Position) -> Look:
        """Return what was committed since `position`."""
        staleness = self._staleness_of(sample(self._connection))  # before the answer, which is then not older
        rows = self._rows(self._look, position)
        _, now, is_replica, found = rows[0][:4]
        if _is_other(position, found, now, is_replica=is_replica):
            return Look(self.start(), staleness, is_other=True)
        if now - position.told_us > RESUMABLE_US:
            return Look(self.start(), staleness, is_expired=True)
        after, batches = _after(position, rows)
        return Look(after, staleness, batches)

    def readings(self, batch: Batch, sensor_ids: Sequence[int] | None) -> Block:
        """Return a batch's readings of these sensors, None for all, by time and sensor; UnreadableError."""
        parameters = {
            "first": Moment(batch.first_us),
            "last": Moment(batch.last_us),
            "xid": str(batch.xid % 2**32),
            "sensor_ids": list(sensor_ids or ()),
        }
        statement = self._readings[sensor_ids is not None]
        try:
            row = self._connection.cursor(binary=True).execute(statement, parameters).fetchone()
        except (QueryCanceled, FeatureNotSupported) as e:
            raise UnreadableError(str(e)) from e
        return packed_rows.unpacked(row[0] if row else None, self._measurements)

    def _rows(self, statement: Any, position: Position) -> list[tuple[Any, ...]]:
        parameters = {
            "floor": str(position.floor),
            "seen": [str(xid) for xid in position.seen],
            "mark": str(position.mark_xid),
        }
        try:
            return self._connection.cursor(binary=True).execute(statement, parameters).fetchall()
        except QueryCanceled as e:
            raise UnavailableError(TOO_SLOW) from e


def _after(position: Position, rows: Sequence[tuple[Any, ...]]) -> tuple[Position, list[Batch]]:
    """Return the batches of a look's rows, and the position after them."""
    xmin, now = rows[0][:2]
    batches = [Batch(*row[4:]) for row in rows if row[4] is not None]
    return position.after_look(batches, xmin, now), batches


def _is_other(position: Position, found: int | None, now: int, *, is_replica: bool) -> bool:
    """Return whether the position's newest batch is not in this database, of which it was.

    A replica may not have it yet; and after an hour it may be deleted, once there is a newer one.
    """
    if not position.mark_xid:
        return False
    if found is None:
        return not is_replica and now - position.mark_us < KEPT_US
    return found != position.mark_us
