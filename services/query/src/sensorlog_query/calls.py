"""What a gRPC call grants its queries: how long they may take, and that they end when nobody waits any more."""

import threading
import time
from concurrent.futures import Executor
from typing import Any

import grpc
import structlog
from psycopg import Connection
from psycopg.errors import QueryCanceled

from sensorlog_query.connections import cut_off
from sensorlog_query.errors import STALENESS, CallerGoneError, DeadlineError
from sensorlog_query.staleness import accepted_staleness

log = structlog.get_logger()

MARGIN_SECONDS = 0.02
"""Kept back from the caller's deadline, so that the answer "too late" still arrives in time."""

CANCEL_TIMEOUT_SECONDS = 5.0


class Call:
    """One call of a client: its deadline, its end, and how old an answer it accepts.

    `limit_seconds` holds where the caller sets no deadline or a longer one. `canceller` runs the cancel requests:
    gRPC tells of a call's end in the thread that serves all calls, which must not wait for a database.
    """

    def __init__(self, context: grpc.ServicerContext, limit_seconds: float, canceller: Executor) -> None:
        self.limit_seconds = limit_seconds
        self.max_staleness = accepted_staleness(context)
        """In milliseconds; None where any age will do."""
        self.staleness = 0
        """Of the server that was looked at last, in milliseconds."""
        self._context = context
        self._canceller = canceller
        self._lock = threading.Lock()
        self._connection: Connection[Any] | None = None
        remaining = context.time_remaining()
        own = limit_seconds if remaining is None else min(limit_seconds, remaining - MARGIN_SECONDS)
        self._deadline = time.monotonic() + own
        context.add_callback(self._on_end)

    def accepts(self, staleness: int) -> bool:
        """Return whether an answer that may be so old, in milliseconds, will do, and tell the caller if it does."""
        self.staleness = staleness
        if self.max_staleness is not None and staleness > self.max_staleness:
            return False
        self._context.set_trailing_metadata(((STALENESS, str(staleness)),))
        return True

    def remaining_seconds(self) -> float:
        """Return the time left, more than 0; DeadlineError or CallerGoneError where the call is over."""
        if not self._context.is_active():
            raise CallerGoneError("the caller is gone")
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("no time was left to ask the database; allow more time")
        return remaining

    def begin(self, connection: Connection[Any]) -> None:
        """Have the statements that run on `connection` from now on cancelled when the caller goes away.

        Raises what `remaining_seconds` raises, and `end` is due then too.
        """
        with self._lock:
            self._connection = connection
        self.remaining_seconds()  # after the line above: the end of the call is noticed here or there

    def end(self, raised: BaseException | None) -> None:
        """Take the connection away again; CallerGoneError where that is why a statement `raised` QueryCanceled."""
        with self._lock:
            self._connection = None
        if isinstance(raised, QueryCanceled) and not self._context.is_active():
            raise CallerGoneError("the caller is gone") from raised

    def cancel(self) -> None:
        """End the call from outside of the thread that serves it, which notices when it next has to do with gRPC."""
        self._context.cancel()

    def _on_end(self) -> None:
        if self._connection is not None:
            self._canceller.submit(self._cancel)

    def _cancel(self) -> None:
        # Under the lock, so that the connection cannot serve another call when the cancel request arrives.
        with self._lock:
            if self._connection is None:
                return
            log.info("cancelling the statement of a caller who is gone")
            try:
                self._connection.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
            except Exception as e:  # noqa: BLE001 -- whatever it is, nobody else would free the thread that waits
                log.warning("cannot cancel a statement, ending its connection", error=type(e).__name__)
                cut_off(self._connection)
