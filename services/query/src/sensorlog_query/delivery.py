"""Streams end at their deadline, and when nobody reads them, also while they wait in gRPC for their caller.

The database cannot see to that: statement_timeout does not interrupt a COPY that waits for its reader. And a caller who
does not read would keep a thread, a connection and a snapshot from which VACUUM has to keep old rows.
"""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import structlog

from sensorlog_query.calls import Call

log = structlog.get_logger()

Message = TypeVar("Message")

OVERTIME_SECONDS = 1.0
"""Given to the database to end a call with a word about why, before it is cut off."""

LOOK_SECONDS = 0.25


class Delivery:
    """Watches over what `of` yields until the block ends. Callers who read on lose nothing but the snapshot."""

    def __init__(self, call: Call, stall_seconds: float) -> None:
        self._call = call
        self._stall_seconds = stall_seconds
        self._end = time.monotonic() + call.remaining_seconds() + OVERTIME_SECONDS
        self._handed_over: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="delivery", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def of(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield `messages`, of which gRPC asks for the next one when the last one is on its way."""
        for message in messages:
            self._handed_over = time.monotonic()
            yield message
            self._handed_over = None

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if self._is_stalled():
                log.info("ending a stream whose caller does not read", seconds=self._stall_seconds)
            elif time.monotonic() < self._end:
                continue
            self._call.cancel()
            return

    def _is_stalled(self) -> bool:
        handed_over = self._handed_over
        return handed_over is not None and time.monotonic() - handed_over > self._stall_seconds
