"""One server whose batches are watched: a poller serves all its watches.

A watch that resumes far behind reads what is between by itself, on a connection of its own, and then joins the others.
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
from sensorlog_query.connections import ReadConnection, connection_parameters, cut_off
from sensorlog_query.errors import CallerGoneError, StaleError, UnavailableError
from sensorlog_query.sql import Statements
from sensorlog_query.staleness import Sample
from sensorlog_query.watch import HANGS
from sensorlog_query.watching_batches import BatchLog, Look
from sensorlog_query.watching_buffer import Entry, Missed
from sensorlog_query.watching_poller import SHUTTING_DOWN, Poller, SensorIds, Watcher, read
from sensorlog_query.watching_position import Position

HEARTBEAT_SECONDS = 10.0
"""How long a caller at most waits for an entry."""

FAR_BEHIND = 20
"""Batches that a watch reads by itself rather than have the others wait for it."""

CATCHING_UP = 2
"""Watches that read by themselves at once; others wait for their turn."""

TURN_SECONDS = 2.0
"""How long such a watch reads before it tells what it has found, and lets others have their turn."""

AGED = "the watch has gone on long enough; resume with the last token"


@dataclass(slots=True)
class Following:
    """A watch as it goes on, from one source to another: where it stands after what it was given, None at its start.

    `max_staleness` in milliseconds is how old at most the data may be, None where any age will do. It goes on until
    `end` on the clock of `time.monotonic`.
    """

    context: grpc.ServicerContext
    sensor_ids: SensorIds
    position: Position | None
    max_staleness: int | None
    end: float

    def check(self, look: Look) -> None:
        """Raise StaleError where what a look found is too old."""
        if self.max_staleness is not None and look.staleness > self.max_staleness:
            raise StaleError(look.staleness, self.max_staleness)


class WatchSource:
    """Serves watches from the server that `connect` leads to, between its making and `close`.

    `buffered_readings` wait at most for one watch; `staleness_of` says how old at most a server's data are, in
    milliseconds.
    """

    def __init__(
        self,
        connect: Callable[[], ReadConnection],
        statements: Statements,
        staleness_of: Callable[[Sample], int],
        buffered_readings: int,
    ) -> None:
        self._connect = connect
        self._statements = statements
        self._staleness_of = staleness_of
        self._buffered_readings = buffered_readings
        self._connections: set[ReadConnection] = set()
        self._catching_up = threading.BoundedSemaphore(CATCHING_UP)
        self._poller = Poller(self._opened)

    def follow(self, following: Following) -> Iterator[Entry]:
        """Yield what there is to tell, without end; at least every ten seconds that the watch is alive.

        StaleError where the data are too old, UnavailableError when the watch has to begin again elsewhere or later.
        """
        if following.position is not None:
            yield from self._catch_up(following, following.position)
        yield from self._go_on(following)

    def on_database(self, problem: Problem) -> None:
        """Hear of the server; one that hangs frees the threads that wait for it."""
        if problem == HANGS:
            for connection in self._connections.copy():
                cut_off(connection)

    def close(self) -> None:
        """End all watches, and let none begin."""
        self._poller.close()

    @contextmanager
    def _opened(self) -> Iterator[BatchLog]:
        with closing(self._connect()) as connection:
            self._connections.add(connection)
            try:
                yield BatchLog(connection, self._statements, self._staleness_of)
            finally:
                self._connections.discard(connection)

    def _catch_up(self, following: Following, position: Position) -> Generator[Entry, None, None]:
        """Yield what was committed since `position`, until that is so little that the poller may do it.

        No connection is held while the caller reads.
        """
        is_behind = True
        while is_behind:
            self._check(following)
            if not self._catching_up.acquire(timeout=HEARTBEAT_SECONDS):
                yield Entry(position)
                continue
            try:
                with self._opened() as log:
                    look = log.look(position)
                    following.check(look)
                    is_behind = len(look.batches) > FAR_BEHIND
                    entries, position = self._caught_up(log, look, following, position) if is_behind else ([], position)
            finally:
                self._catching_up.release()
            for entry in entries:
                following.position = entry.position
                yield entry

    def _caught_up(
        self, log: BatchLog, look: Look, following: Following, position: Position
    ) -> tuple[list[Entry], Position]:
        """Return as much of what a look found as may wait for the caller, and the position after it."""
        chosen = None if following.sensor_ids is None else sorted(following.sensor_ids)
        entries: list[Entry] = []
        count = 0
        end = time.monotonic() + TURN_SECONDS
        for batch in look.batches:
            readings = read(log, batch, chosen)
            position = position.after(batch)
            if readings is None:
                entries.append(Entry(position, missed=Missed.unreadable(batch), staleness=look.staleness))
            elif len(readings):
                entries.append(Entry(position, readings, staleness=look.staleness))
                count += len(readings)
            if count >= self._buffered_readings or time.monotonic() > end:
                break
        else:
            position = position.joined(look.position)
        return [*entries, Entry(position, staleness=look.staleness)], position

    def _go_on(self, following: Following) -> Iterator[Entry]:
        watcher = Watcher(following.sensor_ids, following.position, self._buffered_readings, following.max_staleness)
        if not following.context.add_callback(lambda: watcher.buffer.end(CallerGoneError("the caller is gone"))):
            raise CallerGoneError("the caller is gone")
        self._poller.join(watcher)
        try:
            while time.monotonic() < following.end:
                entry = watcher.buffer.take(HEARTBEAT_SECONDS)
                if entry is not None:
                    following.position = entry.position
                    yield entry
            raise UnavailableError(AGED)
        finally:
            self._poller.leave(watcher)

    def _check(self, following: Following) -> None:
        """Raise where a watch has come to its end while it catches up; afterwards its buffer knows."""
        if not following.context.is_active():
            raise CallerGoneError("the caller is gone")
        if self._poller.is_closed:
            raise UnavailableError(SHUTTING_DOWN)
        if time.monotonic() > following.end:
            raise UnavailableError(AGED)


def connector(credentials: Path) -> Callable[[], ReadConnection]:
    """Return a function that opens a connection with the uri that is in `credentials` then."""
    parameters = connection_parameters("sensorlog-query-watching")
    return lambda: ReadConnection.connect(read_credential(credentials, DATABASE_URI), **parameters)
