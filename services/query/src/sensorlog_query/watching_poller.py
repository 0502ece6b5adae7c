"""One look at the database for all watches of a process, four times a second, and only while somebody watches.

Whatever is wrong with the database ends all watches: their callers' tokens say where to go on, so nothing need be
remembered here.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation

from sensorlog_query.copy_binary import Block
from sensorlog_query.errors import StaleError, UnavailableError, mapped
from sensorlog_query.watching_batches import BatchLog, Look, UnreadableError
from sensorlog_query.watching_buffer import Buffer, Missed, Reason
from sensorlog_query.watching_position import Batch, Position

log = structlog.get_logger()

POLL_SECONDS = 0.25
SHUTTING_DOWN = "the service is shutting down; resume with the last token"

SensorIds = frozenset[int] | None
"""Sensors that are watched, None for all."""


class Watcher:
    """One watch: what it wants, where it stands, and what waits for it. `position` is None until it has begun.

    `max_staleness` is how old at most the data may be that it is told of, in milliseconds; None where any age will do.
    """

    def __init__(
        self, sensor_ids: SensorIds, position: Position | None, limit: int, max_staleness: int | None = None
    ) -> None:
        self.sensor_ids = sensor_ids
        self.position = position
        self.max_staleness = max_staleness
        self.buffer = Buffer(limit)
        self._sorted = None if sensor_ids is None else np.array(sorted(sensor_ids), np.int64)

    def accepts(self, look: Look) -> bool:
        """Return whether the watcher goes on with what a look found; it has ended where that is too old for it."""
        if self.max_staleness is None or look.staleness <= self.max_staleness:
            self.buffer.date(look.staleness)
            return True
        self.buffer.end(StaleError(look.staleness, self.max_staleness))
        return False

    def give(self, batch: Batch, readings: Block | None) -> None:
        """Add what of a batch's readings the watcher wants, None where they cannot be read."""
        assert self.position is not None  # noqa: S101 -- it has begun
        if self.position.has(batch.xid):
            return
        self.position = self.position.after(batch)
        if readings is None:
            self.buffer.put_missed(Missed.unreadable(batch), self.position)
            return
        own = readings if self._sorted is None else readings[np.isin(readings["v1"], self._sorted)]
        if len(own):
            self.buffer.put(own, batch, self.position)
        else:
            self.buffer.advance(self.position)

    def begin(self, position: Position) -> None:
        """Stand at `position`, and say so."""
        self.position = position
        self.buffer.tell(position)

    def arrive(self, look: Look) -> None:
        """Stand where a look ended, after its batches were given."""
        if look.is_other or look.is_expired:
            self.position = look.position
            reason = Reason.DATABASE_CHANGED if look.is_other else Reason.TOKEN_EXPIRED
            self.buffer.put_missed(Missed(reason), self.position)
        elif self.position is not None:
            self.position = self.position.joined(look.position)
            self.buffer.advance(self.position)


class Poller:
    """Reads new batches and gives them to watchers. `opened` is a BatchLog for as long as its block lasts."""

    def __init__(self, opened: Callable[[], AbstractContextManager[BatchLog]]) -> None:
        self._opened = opened
        self._changed = threading.Condition()
        self._newcomers: list[Watcher] = []
        self._watchers: list[Watcher] = []
        self._is_running = False
        self._is_closed = False

    def join(self, watcher: Watcher) -> None:
        """Give `watcher` everything after its position from the next look on; UnavailableError while shutting down."""
        with self._changed:
            if self._is_closed:
                raise UnavailableError(SHUTTING_DOWN)
            self._newcomers.append(watcher)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="watching", daemon=True).start()
            self._changed.notify_all()

    def leave(self, watcher: Watcher) -> None:
        """Give `watcher` nothing more."""
        with self._changed:
            for group in (self._newcomers, self._watchers):
                if watcher in group:
                    group.remove(watcher)

    def close(self) -> None:
        """End all watches, and let none begin."""
        with self._changed:
            self._is_closed = True
        self._end_all(UnavailableError(SHUTTING_DOWN))

    @property
    def is_closed(self) -> bool:
        """Whether no watch may begin any more."""
        return self._is_closed

    def _run(self) -> None:
        try:
            # A trace every quarter of a second would say nothing.
            with suppress_instrumentation(), self._opened() as current:
                position = current.start()
                while self._is_wanted():
                    position = self._turn(current, position)
        except Exception as e:  # noqa: BLE001 -- whatever it is, the watches end with it
            with self._changed:
                self._is_running = False
            self._end_all(mapped(e))

    def _is_wanted(self) -> bool:
        """Wait for the next turn, sooner where somebody new has come; return whether anybody watches."""
        with self._changed:
            self._changed.wait_for(lambda: self._newcomers, POLL_SECONDS)
            self._is_running = bool(self._newcomers or self._watchers) and not self._is_closed
            return self._is_running

    def _turn(self, current: BatchLog, position: Position) -> Position:
        """Give everybody what was committed since `position`, and return the position after it."""
        with self._changed:
            members, newcomers = list(self._watchers), list(self._newcomers)
        # Before the look of all: what is committed in between comes with that.
        resumed: list[Watcher] = []
        for watcher in newcomers:
            if watcher.position is not None and self._give(current, current.look(watcher.position), [watcher]):
                watcher.begin(watcher.position)
                resumed.append(watcher)
        look = current.look(position)
        self._give(current, look, [*members, *resumed])
        for watcher in newcomers:
            if watcher.position is None and self._goes_on(watcher, look):
                watcher.begin(look.position)
        with self._changed:
            self._watchers += [watcher for watcher in newcomers if watcher in self._newcomers]
            self._newcomers = [watcher for watcher in self._newcomers if watcher not in newcomers]
        return look.position

    def _give(self, current: BatchLog, look: Look, watchers: Iterable[Watcher]) -> list[Watcher]:
        """Give what a look found to those who accept data that are so old, and return them; the others have ended."""
        served = [watcher for watcher in watchers if self._goes_on(watcher, look)]
        sensor_ids = wanted(served)
        for batch in look.batches if served else ():
            readings = read(current, batch, sensor_ids)
            for watcher in served:
                watcher.give(batch, readings)
        for watcher in served:
            watcher.arrive(look)
        return served

    def _goes_on(self, watcher: Watcher, look: Look) -> bool:
        goes_on = watcher.accepts(look)
        if not goes_on:
            self.leave(watcher)
        return goes_on

    def _end_all(self, error: Exception) -> None:
        with self._changed:
            ended = [*self._newcomers, *self._watchers]
            self._newcomers, self._watchers = [], []
        for watcher in ended:
            watcher.buffer.end(error)


def wanted(watchers: Iterable[Watcher]) -> list[int] | None:
    """Return the sensors that any of `watchers` wants, in order; None for all."""
    ids: set[int] = set()
    for watcher in watchers:
        if watcher.sensor_ids is None:
            return None
        ids |= watcher.sensor_ids
    return sorted(ids)


def read(current: BatchLog, batch: Batch, sensor_ids: Sequence[int] | None) -> Block | None:
    """Return a batch's readings of these sensors, None where they cannot be read."""
    try:
        return current.readings(batch, sensor_ids)
    except UnreadableError as e:
        log.warning("the readings of a batch cannot be read; its watchers are told", rows=batch.rows, reason=str(e))
        return None
