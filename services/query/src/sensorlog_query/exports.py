"""Whole ranges as columns: COPY BINARY out of the database, packed columns to the caller.

Chunk by chunk in one snapshot: the database sorts one chunk at a time, this process holds one block of rows, and a
caller who reads slowly slows the COPY down, because gRPC asks for the next block only when the last one is sent.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Connection

from sensorlog_query import copy_binary
from sensorlog_query.calls import Call
from sensorlog_query.chunks import chunks_of
from sensorlog_query.copy_binary import FLOAT, INTEGER, Block
from sensorlog_query.database import Database
from sensorlog_query.delivery import Delivery
from sensorlog_query.errors import BusyError
from sensorlog_query.readings import Row, cursor
from sensorlog_query.sql import Statements
from sensorlog_query.validation import ExportQuery, Selection

MESSAGE_BYTES = 1024 * 1024
"""A reply's size, about: well under the 4 MiB that gRPC clients accept by default."""


class Exports:
    """Answers with columns. At most `limit` at once: each holds a thread and a connection for as long as it takes.

    One whose caller reads nothing for `stall_seconds` is ended, for others may be waiting.
    """

    def __init__(self, database: Database, statements: Statements, limit: int, stall_seconds: float) -> None:
        self._database = database
        self._statements = statements
        self._limit = limit
        self._stall_seconds = stall_seconds
        self._slots = threading.BoundedSemaphore(limit)

    def stream(self, call: Call, query: ExportQuery) -> Iterator[Block]:
        """Yield blocks of (time, sensor_id, measurement...) in order of (time, sensor_id)."""
        with self._slot(), Delivery(call, self._stall_seconds) as delivery:
            yield from delivery.of(self._blocks(call, query))

    def _blocks(self, call: Call, query: ExportQuery) -> Iterator[Block]:
        with self._database.transaction(call) as connection:
            for chunk in chunks_of(cursor(connection), self._statements, query.selection):
                call.remaining_seconds()  # raises when the call is over
                yield from self._copy(connection, chunk, query.measurements)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            raise BusyError(f"{self._limit} exports are running, which is the limit; try again later")
        try:
            yield
        finally:
            self._slots.release()

    def _copy(self, connection: Connection[Row], chunk: Selection, measurements: tuple[str, ...]) -> Iterator[Block]:
        statement = self._statements.export(measurements, of_sensors=bool(chunk.sensor_ids))
        parameters = {"start": chunk.start, "end": chunk.end, "sensor_ids": list(chunk.sensor_ids)}
        columns = (INTEGER, INTEGER, *(FLOAT for _ in measurements))
        with cursor(connection).copy(statement, parameters) as copy:
            received = copy_binary.parts(copy, connection.pgconn)
            yield from copy_binary.blocks(received, columns, rows_per_message(len(columns)))


def rows_per_message(columns: int) -> int:
    """Return how many rows of so many columns make a reply of about MESSAGE_BYTES."""
    return max(1, MESSAGE_BYTES // (columns * copy_binary.FIELD_BYTES))
