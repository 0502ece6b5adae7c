"""One connection to the database: it only reads, notices that its peer is gone, and can be cut off."""

import os
import socket
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import Connection, IsolationLevel

from sensorlog_query import microseconds, sql
from sensorlog_query.prepared import PreparingConnection
from sensorlog_query.staleness import Sample, sample

CONNECT_TIMEOUT_SECONDS = 3

PARAMETERS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    # A peer that vanished without a word is noticed in seconds, not in the two hours of the kernel's default.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Parallel workers would let one call take all cores from the others.
SERVER_SETTINGS = "-c default_transaction_read_only=on -c timezone=UTC -c max_parallel_workers_per_gather=0"


def connection_parameters(application: str) -> dict[str, Any]:
    """Return the options of every connection; they stand above those of the uri."""
    return {**PARAMETERS, "application_name": application, "options": SERVER_SETTINGS, "autocommit": True}


def configure(connection: Connection[Any]) -> None:
    """Make transactions read one snapshot: the statements of a page then agree with each other."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    microseconds.register(connection)


def cut_off(connection: Connection[Any]) -> None:
    """End a connection whose server hangs, so that the thread that waits for an answer gets an error instead.

    Nothing else reaches it there: a cancel request needs a server that answers, and the kernel of a frozen one keeps
    the connection alive.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
        same.shutdown(socket.SHUT_RDWR)


class ReadConnection(PreparingConnection):
    """A connection that knows its session's statement_timeout and its server's staleness, to ask only when it must."""

    statement_seconds: float | None = None
    _sample: Sample | None = None

    def bound_statements(self, seconds: float) -> None:
        """Let no statement outside of a transaction take longer than `seconds`."""
        if seconds != self.statement_seconds:
            self.execute(sql.SET_SESSION_STATEMENT_TIMEOUT, {"milliseconds": str(max(1, int(seconds * 1000)))})
            self.statement_seconds = seconds

    def sampled(self) -> Sample:
        """Return how far the server was within the last second."""
        if self._sample is None or self._sample.is_due:
            self._sample = sample(self)
        return self._sample
