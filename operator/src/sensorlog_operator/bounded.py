"""A connection to a database that waits for no answer for ever."""

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

STATEMENT_SECONDS = 30
"""How long the server works on a statement before it gives up."""

ANSWER_SECONDS = STATEMENT_SECONDS + 5
WAKE_SECONDS = 0.1

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[dict[str, Any]]):
    """A connection that gives up an answer which should have come long ago.

    Nothing else tells of a server that is frozen, or lost behind a proxy: the kernel that is still there answers TCP's
    keepalives.
    """

    def wait(self, gen: PQGen[T], interval: float = WAKE_SECONDS, timeout: float | None = ANSWER_SECONDS) -> T:
        """Return what `gen` yields in the end; psycopg.OperationalError where that takes more than `timeout` seconds.

        The connection is closed then.
        """
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as e:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.close()
            raise psycopg.OperationalError(f"no answer within {timeout:.0f} s") from e
