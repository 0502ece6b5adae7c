"""The way to the readings: transactions that only read, of one server or, for fresher data, of another."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool

from sensorlog_query import sql
from sensorlog_query.calls import Call
from sensorlog_query.connections import ReadConnection
from sensorlog_query.errors import StaleError
from sensorlog_query.metrics import DatabaseMetrics
from sensorlog_query.prepared import Parameter, Prepared
from sensorlog_query.source import PoolLimits, Source
from sensorlog_query.staleness import Positions, Sample, sample, staleness_ms
from sensorlog_query.watch import Watch


class Database:
    """Read-only transactions that end with the call they serve.

    They are those of the server that `credentials` lead to, which may be a replica. Where its data may be older than a
    call accepts, they are those of the server that `primary` leads to; StaleError where there is none.
    """

    def __init__(
        self,
        credentials: Path,
        statements: sql.Statements,
        limits: PoolLimits,
        metrics: DatabaseMetrics,
        primary: tuple[Path, PoolLimits] | None = None,
    ) -> None:
        self._probe = statements.probe()
        self._metrics = metrics
        self._positions: Positions | None = None
        self._first = Source(credentials, "sensorlog-query", limits, self._ask)
        self._sources = [self._first]
        if primary is not None:
            self._positions = Positions()
            self._sources.append(Source(primary[0], "sensorlog-query-primary", primary[1], self._positions.observe))

    @property
    def watch(self) -> Watch:
        """Whether calls can be answered now."""
        return self._first.watch

    @property
    def watches(self) -> list[Watch]:
        """The same of every server: of the one that is asked first, and of the primary, where it may be asked."""
        return [source.watch for source in self._sources]

    def staleness_of(self, sampled: Sample) -> int:
        """Return how old at most an answer is of the server that said so, in milliseconds."""
        return staleness_ms(sampled, self._positions)

    @property
    def pool(self) -> ConnectionPool[ReadConnection]:
        """The connections that serve calls whatever age they accept."""
        return self._first.pool

    def open(self) -> None:
        """Start connecting; the database may be away."""
        for source in self._sources:
            source.open()

    def close(self) -> None:
        """Give all connections back."""
        for source in self._sources:
            source.close()

    def _ask(self, connection: Connection[Any]) -> None:
        connection.execute(self._probe)
        self._metrics.staleness.set(staleness_ms(sample(connection), self._positions) / 1000)

    @contextmanager
    def transaction(self, call: Call) -> Iterator[Connection[Any]]:
        """Yield a connection in a transaction with one snapshot, bounded by the call's deadline."""
        for source in self._sources:
            with source.lent(call) as connection:
                if self._serves(call, source, connection):
                    with connection.transaction():
                        milliseconds = max(1, int(call.remaining_seconds() * 1000))
                        connection.execute(sql.SET_STATEMENT_TIMEOUT, {"milliseconds": str(milliseconds)})
                        yield connection
                    return
        raise StaleError(call.staleness, call.max_staleness or 0)

    def value(self, call: Call, statement: Prepared, parameters: Sequence[Parameter]) -> bytes | None:
        """Return the value of one statement, which is a snapshot by itself: a transaction would be three round trips.

        The call ends it at the deadline; statement_timeout, which is a little longer, would do so if nobody could.
        """
        for source in self._sources:
            with source.lent(call) as connection:
                if self._serves(call, source, connection):
                    return connection.value(statement, parameters)
        raise StaleError(call.staleness, call.max_staleness or 0)

    def _serves(self, call: Call, source: Source, connection: ReadConnection) -> bool:
        """Return whether the data of a connection's server are not older than the call accepts."""
        connection.bound_statements(_rounded_up(call.remaining_seconds(), call.limit_seconds))
        if not call.accepts(staleness_ms(connection.sampled(), self._positions)):
            return False
        if source is not self._first:
            self._metrics.fallbacks.inc()
        return True


def _rounded_up(seconds: float, limit: float) -> float:
    """Return `seconds` as a power of two, so that calls of one deadline need it set once; not more than `limit`."""
    return min(limit, 2.0 ** math.ceil(math.log2(seconds)))
