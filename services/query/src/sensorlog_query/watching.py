"""Watches: readings as they are committed, from now on or from a token on, until the caller has enough.

They are those of the server that calls are answered from, which may be a replica. A watch for which its data are, or
become, too old goes on at the primary where the service may ask it, from the same position, and stays there.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from sensorlog_query.calls import Call
from sensorlog_query.delivery import Delivery
from sensorlog_query.errors import BusyError, StaleError
from sensorlog_query.watching_buffer import Entry
from sensorlog_query.watching_poller import SensorIds
from sensorlog_query.watching_position import Position
from sensorlog_query.watching_source import HEARTBEAT_SECONDS, Following, WatchSource

AGE_SECONDS = 3600.0
"""How long a watch goes on before its caller must come again: to be authenticated, and to find new pods."""

LIMIT_SECONDS = AGE_SECONDS + 2 * HEARTBEAT_SECONDS
"""What a watch's call may take: it has been told to come again by then, unless it does not read."""

MESSAGE_BYTES = 1024 * 1024
BYTES_PER_VALUE = 40
"""Of a message, about, a name included."""


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """Readings of `sensor_ids`, None for all, after `position`, None for from now on."""

    sensor_ids: SensorIds
    position: Position | None


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How many watches there are at most, and for how many seconds one waits for a caller who does not read."""

    watches: int
    stall_seconds: float


class Watches:
    """Serves the watches of one process from the first of `sources`, and from the next one where it is too old.

    `on_fallback` hears of each that goes on at the next one. Messages have `columns` values a reading.
    """

    def __init__(
        self, sources: Sequence[WatchSource], limits: WatchLimits, columns: int, on_fallback: Callable[[], None]
    ) -> None:
        self._sources = sources
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.watches)
        self._rows_per_message = max(1, MESSAGE_BYTES // (BYTES_PER_VALUE * columns))
        self._on_fallback = on_fallback

    def stream(self, context: grpc.ServicerContext, call: Call, query: WatchQuery) -> Iterator[tuple[Entry, bool]]:
        """Yield what there is to tell, and whether the next entry goes on with it: one batch may be several entries.

        BusyError above the limit of watches, StaleError where the data are older than the call accepts,
        UnavailableError when it has to begin again.
        """
        end = time.monotonic() + AGE_SECONDS
        following = Following(context, query.sensor_ids, query.position, call.max_staleness, end)
        with self._slot(), Delivery(call, self._limits.stall_seconds) as delivery:
            yield from delivery.of(self._parts(self._entries(following)))

    def close(self) -> None:
        """End all watches, and let none begin."""
        for source in self._sources:
            source.close()

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            raise BusyError(f"{self._limits.watches} watches are running, which is the limit; try again later")
        try:
            yield
        finally:
            self._slots.release()

    def _entries(self, following: Following) -> Iterator[Entry]:
        *first, last = self._sources
        for source in first:
            try:
                yield from source.follow(following)
            except StaleError:
                self._on_fallback()
        yield from last.follow(following)

    def _parts(self, entries: Iterator[Entry]) -> Iterator[tuple[Entry, bool]]:
        """Yield each entry in parts that are not too large for a message."""
        step = self._rows_per_message
        for entry in entries:
            readings = entry.readings
            if readings is None:
                yield entry, False
                continue
            for start in range(0, len(readings), step):
                part = Entry(entry.position, readings[start : start + step], staleness=entry.staleness)
                yield part, start + step < len(readings)
