"""One address where the readings are: a pool of connections to it, and a watch that says whether it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from sensorlog.credentials import DATABASE_URI, read_credential
from sensorlog.telemetry import Problem
from sensorlog_query.calls import Call
from sensorlog_query.connections import ReadConnection, configure, connection_parameters, cut_off
from sensorlog_query.errors import UnavailableError, mapped
from sensorlog_query.watch import HANGS, NOT_YET, Watch

RECONNECT_SECONDS = 4.0
"""How long the pool itself retries a lost connection. Short, because its pauses double; the watch has it try anew."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Connections at least and at most, and how long a call waits for one, in seconds."""

    least: int
    most: int
    wait_seconds: float


class Source:
    """Lends connections for as long as the address answers.

    Calls fail at once while the watch says that it does not, and when it hangs, those that wait for it are freed:
    otherwise they would keep every thread of the service, and go on doing so however short their deadlines are.
    """

    def __init__(
        self, credentials: Path, application: str, limits: PoolLimits, ask: Callable[[Connection[Any]], object]
    ) -> None:
        self._wait_seconds = limits.wait_seconds
        # The uri is read for each new connection, so that a rotated Secret is picked up.
        uri = partial(read_credential, credentials, DATABASE_URI)
        self.pool: ConnectionPool[ReadConnection] = ConnectionPool(
            uri,
            connection_class=ReadConnection,
            kwargs=connection_parameters(application),
            min_size=limits.least,
            max_size=limits.most,
            max_waiting=4 * limits.most,
            timeout=limits.wait_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            configure=configure,
            open=False,
            name=application,
        )
        parameters = connection_parameters(f"{application}-watch")
        self.watch = Watch(lambda: psycopg.connect(uri(), **parameters), ask)
        self.watch.listeners.append(self._on_news)
        self._away = False
        self._lent: set[ReadConnection] = set()

    def open(self) -> None:
        """Start connecting; the database may be away."""
        self.pool.open(wait=False)
        self.watch.start()

    def close(self) -> None:
        """Give all connections back."""
        self.watch.stop()
        self.pool.close()

    def _on_news(self, problem: Problem) -> None:
        if problem == HANGS:
            for connection in self._lent.copy():
                cut_off(connection)
        # Connections that died with the database lie in the pool until they are used: change them before.
        if problem is None and self._away:
            self.pool.check()
        self._away = problem not in (None, NOT_YET)  # what was never there has left nothing in the pool

    def lent(self, call: Call) -> "Loan":
        """Return what yields a connection for the statements of a call, which end with it.

        UnavailableError while the address does not answer, BusyError where all connections are in use for too long.
        """
        return Loan(self, call)

    def lend(self, call: Call) -> ReadConnection:
        """Return a connection, which is free again after `take_back`."""
        connection = self._get(call)
        self._lent.add(connection)
        return connection

    def take_back(self, connection: ReadConnection) -> None:
        """Let others have the connection."""
        self._lent.discard(connection)
        self.pool.putconn(connection)

    def _get(self, call: Call) -> ReadConnection:
        # A process that started a moment ago waits for its first connection: no reason to turn callers away.
        problem = self.watch.problem()
        if problem and problem != NOT_YET:
            raise UnavailableError(problem)
        try:
            return self.pool.getconn(timeout=min(call.remaining_seconds(), self._wait_seconds))
        except PoolTimeout as e:
            if problem := self.watch.problem():
                raise UnavailableError(problem) from e
            raise mapped(e) from e


class Loan:
    """A connection of a source for a while. A class because a generator costs several times as much, at every call."""

    __slots__ = ("_call", "_connection", "_source")

    def __init__(self, source: Source, call: Call) -> None:
        self._source = source
        self._call = call

    def __enter__(self) -> ReadConnection:
        connection = self._connection = self._source.lend(self._call)
        try:
            self._call.begin(connection)
        except BaseException as e:
            self._end(e)
            raise
        return connection

    def __exit__(
        self, _kind: type[BaseException] | None, raised: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end(raised)

    def _end(self, raised: BaseException | None) -> None:
        try:
            self._call.end(raised)
        finally:
            self._source.take_back(self._connection)
