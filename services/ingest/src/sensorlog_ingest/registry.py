"""Sensors that report: their ids in `sensors`, where a reader finds them without a look at the readings.

An id is there before the first of its readings is visible. It is stored ahead of the batch and not in its transaction:
an id without readings does no harm, the other way round would, and nothing of the batch has to wait for it. One
statement takes its rows in the order of ids, as the upserts of announcements do, so none of them can deadlock. Until
the sensor announces itself its `updated_at` is -infinity, which is older than any announcement.
"""

import time

import numpy as np
import psycopg
import structlog
from numpy.typing import NDArray
from psycopg.errors import QueryCanceled
from psycopg.rows import TupleRow

from sensorlog_ingest.readings import Readings
from sensorlog_ingest.row_errors import is_caused_by_rows
from sensorlog_ingest.sql import RegistryStatements

log = structlog.get_logger(__name__)

Connection = psycopg.Connection[TupleRow]
Ids = NDArray[np.int64]

MAX_KNOWN = 1_000_000
"""Ids that are remembered, 8 bytes each; a pipeline with more of them asks the database again."""

MAX_REGISTERED = 10_000
"""Ids in one statement: as a parameter each is an object of Python for a moment."""

REMEMBER_SECONDS = 300.0
"""How long an id counts as stored. Whoever empties `sensors` takes away what a running process believes to be there."""

NOTHING: Ids = np.empty(0, np.int64)


class Registry:
    """Registers the sensors of batches, each id once in a while and connection."""

    def __init__(self, statements: RegistryStatements) -> None:
        self._statements = statements
        self._known = NOTHING
        self._connection: Connection | None = None
        self._forget_at = 0.0
        self._is_complete = False

    def forget(self) -> None:
        """Believe nothing to be stored: the database may have lost it."""
        self._known = NOTHING
        self._forget_at = time.monotonic() + REMEMBER_SECONDS

    def register(self, connection: Connection, readings: Readings) -> None:
        """Store the ids of readings, which are in order of sensor_id, in a transaction of its own.

        Raises whatever of psycopg.Error is not caused by rows. What a constraint of somebody's own refuses is left out.
        """
        if connection is not self._connection or time.monotonic() >= self._forget_at:
            self.forget()
            self._connection = connection
        ids = unknown(distinct(readings.sensor_id), self._known)
        if not len(ids):
            return
        try:
            for start in range(0, len(ids), MAX_REGISTERED):
                portion = ids[start : start + MAX_REGISTERED].tolist()
                connection.execute(self._statements.register, {"ids": portion})
        except psycopg.Error as e:
            if not is_caused_by_rows(e):
                raise
            log.warning("sensors cannot be registered; their last readings are found by id only", error=str(e))
        self._known = merged(self._known, ids)

    def complete(self, connection: Connection) -> None:
        """Register the sensors of everything stored, once for a schema: it may be older than this table's use.

        While another process does so, this one need not wait: what it stores itself it registers itself. What is
        refused, or takes too long, is left to the next process. Raises whatever else of psycopg.Error there is.
        """
        if self._is_complete:
            return
        try:
            with connection.transaction():
                self._complete(connection)
        except psycopg.Error as e:
            if not (is_caused_by_rows(e) or isinstance(e, QueryCanceled)):
                raise
            log.warning("sensors of stored readings cannot be registered", error=str(e))
        self._is_complete = True

    def _complete(self, connection: Connection) -> None:
        is_wanted = connection.execute(self._statements.wants_completion).fetchone()
        if is_wanted and is_wanted[0]:
            started = time.monotonic()
            connection.execute(self._statements.long_statement)
            registered = connection.execute(self._statements.register_stored).rowcount
            connection.execute(self._statements.mark_complete)
            log.info("registered the sensors of stored readings", new=registered, seconds=time.monotonic() - started)


def distinct(ids: Ids) -> Ids:
    """Return each of `ids`, which are in order, once."""
    is_first = np.ones(len(ids), np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=is_first[1:])
    return ids[is_first]


def unknown(ids: Ids, known: Ids) -> Ids:
    """Return those of `ids` that are not in `known`, which is in order."""
    if not len(known):
        return ids
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    missing: Ids = ids[known[places] != ids]
    return missing


def merged(known: Ids, ids: Ids) -> Ids:
    """Return both in order; only `ids` where it would be more than MAX_KNOWN."""
    if len(known) + len(ids) > MAX_KNOWN:
        return ids
    both: Ids = np.insert(known, np.searchsorted(known, ids), ids)
    return both
