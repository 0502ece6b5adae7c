"""What waits for one watcher: bounded, and what does not fit is told instead."""

import threading
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.copy_binary import Block
from sensorlog_query.watching_position import Batch, Position

MAX_ENTRIES = 1_000
"""Batches that wait, however few readings they have."""


class Reason(Enum):
    """Why a watcher does not get something."""

    SLOW_READER = pb.Missed.REASON_SLOW_READER
    TOKEN_EXPIRED = pb.Missed.REASON_TOKEN_EXPIRED
    DATABASE_CHANGED = pb.Missed.REASON_DATABASE_CHANGED
    UNREADABLE = pb.Missed.REASON_UNREADABLE


@dataclass(frozen=True, slots=True)
class Missed:
    """`count` readings from `first_us` to `last_us`, inclusive; each is None where it is not known."""

    reason: Reason
    first_us: int | None = None
    last_us: int | None = None
    count: int | None = None

    @staticmethod
    def unreadable(batch: Batch) -> "Missed":
        """Return that a batch's readings cannot be read, nobody knows of which sensors."""
        return Missed(Reason.UNREADABLE, batch.first_us, batch.last_us)

    def with_batch(self, batch: Batch, count: int) -> "Missed":
        """Return it with `count` readings more, which are of `batch`."""
        first = batch.first_us if self.first_us is None else min(self.first_us, batch.first_us)
        last = batch.last_us if self.last_us is None else max(self.last_us, batch.last_us)
        return Missed(self.reason, first, last, (self.count or 0) + count)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to tell a watcher, who then stands at `position`; neither readings nor anything missed: only that.

    `staleness` is how old at most the data were that it was found in, in milliseconds, None where nobody has looked.
    """

    position: Position
    readings: Block | None = None
    missed: Missed | None = None
    staleness: int | None = None


class Buffer:
    """Holds up to `limit` readings, or one batch if that is larger, between whoever reads them and the watcher."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._readings = 0
        self._position: Position | None = None  # after everything that was taken, while nothing waits
        self._staleness: int | None = None
        self._end: Exception | None = None

    def date(self, staleness: int) -> None:
        """Say how old at most the data are in which what comes from now on is found, in milliseconds."""
        with self._changed:
            self._staleness = staleness

    def put(self, readings: Block, batch: Batch, position: Position) -> None:
        """Add readings of a batch, or to what is missed where they do not fit."""
        with self._changed:
            if self._has_room(len(readings)):
                self._readings += len(readings)
                self._append(position, readings=readings)
                return
            last = self._entries[-1].missed
            if last is not None and last.reason is Reason.SLOW_READER:
                self._entries.pop()
            else:
                last = Missed(Reason.SLOW_READER)
            self._append(position, missed=last.with_batch(batch, len(readings)))

    def put_missed(self, missed: Missed, position: Position) -> None:
        """Add that something is missed."""
        with self._changed:
            self._append(position, missed=missed)

    def tell(self, position: Position) -> None:
        """Add that the watcher stands at `position`, so that it has a token soon."""
        with self._changed:
            self._append(position)

    def advance(self, position: Position) -> None:
        """Note that there was nothing for the watcher until `position`."""
        with self._changed:
            if self._entries:
                self._entries[-1] = replace(self._entries[-1], position=position, staleness=self._staleness)
            else:
                self._position = position

    def end(self, error: Exception) -> None:
        """Have `take` raise `error` once nothing waits any more."""
        with self._changed:
            self._end = self._end or error
            self._changed.notify_all()

    def take(self, timeout: float) -> Entry | None:
        """Return what has waited longest; after `timeout` seconds only where the watcher stands, None if it does not.

        Raises what `end` was given.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._end, timeout)
            if self._entries:
                entry = self._entries.popleft()
                self._position = entry.position
                self._readings -= 0 if entry.readings is None else len(entry.readings)
                return entry
            if self._end is not None:
                raise self._end
            return None if self._position is None else Entry(self._position, staleness=self._staleness)

    def _has_room(self, readings: int) -> bool:
        return not self._entries or (self._readings + readings <= self._limit and len(self._entries) < MAX_ENTRIES)

    def _append(self, position: Position, *, readings: Block | None = None, missed: Missed | None = None) -> None:
        self._entries.append(Entry(position, readings, missed, self._staleness))
        self._changed.notify_all()
