"""Watches: readings as they are committed, from now on or from a token on, until the caller has enough.

A watch that resumes far behind reads what is between by itself, on a connection of its own, and then joins the others,
who are served by one poller.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from sensorlog.credentials import DATABASE_URI, read_credential
from sensorlog.telemetry import Problem
from sensorlog_query.connections import ReadConnection, connection_parameters
from sensorlog_query.errors import BusyError, CallerGoneError, UnavailableError
from sensorlog_query.sql import Statements
from sensorlog_query.watch import HANGS
from sensorlog_query.watching_batches import BatchLog, Look
from sensorlog_query.watching_buffer import Entry, Missed
from sensorlog_query.watching_poller import Poller, SensorIds, Watcher, read
from sensorlog_query.watching_position import Position

HEARTBEAT_SECONDS = 10.0
"""How long a caller at most waits for a message."""

AGE_SECONDS = 3600.0
"""How long a watch goes on before its caller must come again: to be authenticated, and to find new pods."""

FAR_BEHIND = 20
"""Batches that a watch reads by itself rather than have the others wait for it."""

CATCHING_UP = 2
"""Watches that read by themselves at once; others wait for their turn."""

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
    """How many watches there are at most, and how many readings wait for one that reads slowly."""

    watches: int
    buffered_readings: int


class Watches:
    """Serves the watches of one process, between its making and `close`."""

    def __init__(self, connect: Callable[[], ReadConnection], statements: Statements, limits: WatchLimits) -> None:
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.watches)
        self._catching_up = threading.BoundedSemaphore(CATCHING_UP)
        self._connect = connect
        self._statements = statements
        self._poller = Poller(self._open)
        self._rows_per_message = max(1, MESSAGE_BYTES // (BYTES_PER_VALUE * (2 + len(statements.measurements))))

    def stream(self, context: grpc.ServicerContext, query: WatchQuery) -> Iterator[tuple[Entry, bool]]:
        """Yield what there is to tell, and whether the next entry goes on with it: one batch may be several entries.

        BusyError above the limit of watches, UnavailableError when it has to begin again.
        """
        with self._slot():
            position = query.position
            if position is not None:
                position = yield from self._behind(context, query.sensor_ids, position)
            yield from self._live(context, Watcher(query.sensor_ids, position, self._limits.buffered_readings))

    def on_database(self, problem: Problem) -> None:
        """Hear from the database watch; one that hangs frees the thread that waits for it."""
        if problem == HANGS:
            self._poller.cut_off()

    def close(self) -> None:
        """End all watches, and let none begin."""
        self._poller.close()

    def _open(self) -> BatchLog:
        return BatchLog(self._connect, self._statements)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            raise BusyError(f"{self._limits.watches} watches are running, which is the limit; try again later")
        try:
            yield
        finally:
            self._slots.release()

    def _behind(
        self, context: grpc.ServicerContext, sensor_ids: SensorIds, position: Position
    ) -> Generator[tuple[Entry, bool], None, Position]:
        """Yield what was committed since `position`, until that is so little that the poller may do it.

        Returns the position then. No connection is held while the caller reads.
        """
        while context.is_active():
            with self._catching_up, closing(self._open()) as log:
                look = log.look(position)
                if len(look.batches) <= FAR_BEHIND:
                    break
                entries, position = self._caught_up(log, look, sensor_ids, position)
            for entry in entries:
                yield from self._parts(entry)
        return position

    def _caught_up(
        self, log: BatchLog, look: Look, sensor_ids: SensorIds, position: Position
    ) -> tuple[list[Entry], Position]:
        """Return as much of what a look found as may wait for the caller, and the position after it."""
        chosen = None if sensor_ids is None else sorted(sensor_ids)
        entries: list[Entry] = []
        count = 0
        for batch in look.batches:
            readings = read(log, batch, chosen)
            position = position.after(batch)
            if readings is None:
                entries.append(Entry(position, missed=Missed.unreadable(batch)))
            elif len(readings):
                entries.append(Entry(position, readings))
                count += len(readings)
            if count >= self._limits.buffered_readings:
                return entries, position
        return entries, position.joined(look.position)

    def _live(self, context: grpc.ServicerContext, watcher: Watcher) -> Iterator[tuple[Entry, bool]]:
        if not context.add_callback(lambda: watcher.buffer.end(CallerGoneError("the caller is gone"))):
            raise CallerGoneError("the caller is gone")
        end = time.monotonic() + AGE_SECONDS
        self._poller.join(watcher)
        try:
            while time.monotonic() < end:
                entry = watcher.buffer.take(HEARTBEAT_SECONDS)
                if entry is not None:
                    yield from self._parts(entry)
            raise UnavailableError("the watch has gone on long enough; resume with the last token")
        finally:
            self._poller.leave(watcher)

    def _parts(self, entry: Entry) -> Iterator[tuple[Entry, bool]]:
        """Yield an entry in parts that are not too large for a message."""
        readings = entry.readings
        if readings is None:
            yield entry, False
            return
        step = self._rows_per_message
        for start in range(0, len(readings), step):
            yield Entry(entry.position, readings[start : start + step]), start + step < len(readings)


def connector(credentials: Path) -> Callable[[], ReadConnection]:
    """Return a function that opens a connection with the uri that is in `credentials` then."""
    parameters = connection_parameters("sensorlog-query-watching")
    return lambda: ReadConnection.connect(read_credential(credentials, DATABASE_URI), **parameters)
