"""The way to the database: a pool of connections that can only read, mended when the database comes back."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg_pool import ConnectionPool, PoolTimeout

from sensorlog.credentials import DATABASE_URI, read_credential
from sensorlog.telemetry import Problem
from sensorlog_query import microseconds, sql
from sensorlog_query.calls import Call
from sensorlog_query.errors import DATABASE_AWAY, QueryError, UnavailableError, mapped
from sensorlog_query.watch import Watch

CONNECT_TIMEOUT_SECONDS = 3
RECONNECT_SECONDS = 4.0
"""How long the pool itself retries a lost connection. Short, because its pauses double; the watch has it try anew."""

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


class ReadConnection(Connection[Any]):
    """A connection that knows its session's statement_timeout, to set it again only when it must differ."""

    statement_seconds: float | None = None

    def bound_statements(self, seconds: float) -> None:
        """Let no statement outside of a transaction take longer than `seconds`."""
        if seconds != self.statement_seconds:
            self.execute(sql.SET_SESSION_STATEMENT_TIMEOUT, {"milliseconds": str(max(1, int(seconds * 1000)))})
            self.statement_seconds = seconds


class Database:
    """Read-only transactions that end with the call they serve."""

    def __init__(
        self, credentials: Path, statements: sql.Statements, *, pool_min: int, pool_max: int, wait_seconds: float
    ) -> None:
        self._wait_seconds = wait_seconds
        # The uri is read for each new connection, so that a rotated Secret is picked up.
        self.pool: ConnectionPool[ReadConnection] = ConnectionPool(
            lambda: read_credential(credentials, DATABASE_URI),
            connection_class=ReadConnection,
            kwargs=connection_parameters("sensorlog-query"),
            min_size=pool_min,
            max_size=pool_max,
            max_waiting=4 * pool_max,
            timeout=wait_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            configure=configure,
            open=False,
            name="query",
        )
        self.watch = Watch(
            lambda: psycopg.connect(
                read_credential(credentials, DATABASE_URI), **connection_parameters("sensorlog-query-watch")
            ),
            statements.probe(),
        )
        self.watch.listeners.append(self._mend_pool)
        self._away = False

    def open(self) -> None:
        """Start connecting; the database may be away."""
        self.pool.open(wait=False)
        self.watch.start()

    def close(self) -> None:
        """Give all connections back."""
        self.watch.stop()
        self.pool.close()

    def _mend_pool(self, problem: Problem) -> None:
        # Connections that died with the database lie in the pool until they are used: change them before.
        if problem is None and self._away:
            self.pool.check()
        self._away = problem is not None

    @contextmanager
    def transaction(self, call: Call) -> Iterator[Connection[Any]]:
        """Yield a connection in a transaction with one snapshot, bounded by the call's deadline."""
        with self._connection(call) as connection, call.querying(connection), connection.transaction():
            milliseconds = max(1, int(call.remaining_seconds() * 1000))
            connection.execute(sql.SET_STATEMENT_TIMEOUT, {"milliseconds": str(milliseconds)})
            yield connection

    def fetch(self, call: Call, statement: bytes, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is a snapshot by itself: a transaction would be three round trips.

        The call ends it at the deadline; statement_timeout, which is a little longer, would do so if nobody could.
        """
        with self._connection(call) as connection, call.querying(connection):
            connection.bound_statements(_rounded_up(call.remaining_seconds(), call.limit_seconds))
            return connection.cursor(binary=True).execute(statement, parameters).fetchall()

    @contextmanager
    def _connection(self, call: Call) -> Iterator[ReadConnection]:
        try:
            connection = self.pool.getconn(timeout=min(call.remaining_seconds(), self._wait_seconds))
        except PoolTimeout as e:
            raise self._without_connection(e) from e
        try:
            yield connection
        finally:
            self.pool.putconn(connection)

    def _without_connection(self, e: PoolTimeout) -> QueryError:
        return UnavailableError(DATABASE_AWAY) if self.watch.problem() else mapped(e)


def _rounded_up(seconds: float, limit: float) -> float:
    """Return `seconds` as a power of two, so that calls of one deadline need it set once; not more than `limit`."""
    return min(limit, 2.0 ** math.ceil(math.log2(seconds)))
