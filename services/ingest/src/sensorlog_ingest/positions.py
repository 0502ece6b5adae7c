"""Where each assigned partition is read from. The database decides, Kafka's own committed offsets never do."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sensorlog_ingest.batches import Advance
from sensorlog_ingest.messages import Message, Partition


@dataclass(slots=True)
class Position:
    """Of one partition: the next_offset that is stored once all batches built so far are, and the one to read."""

    stored: int
    next: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where to read from. `lost` messages are gone from the log; `restarted` says that the log is another one."""

    offset: int
    lost: int = 0
    restarted: bool = False


def start_of(stored: int, low: int, high: int, *, topic_is_new: bool) -> Start:
    """Return where to read a log of offsets `low`..`high` (exclusive) of which `stored` is the next one wanted.

    Beyond its end there are two stories. Either the topic was deleted and made anew: then all of it is unread. Or
    the broker lost the end of its log: then what is left was read, and reading it again would double it.
    """
    if stored > high:
        return Start(low if topic_is_new else high, restarted=True)
    if stored < low:
        return Start(low, lost=low - stored)
    return Start(stored)


class Positions:
    """The partitions assigned to this process: those that have a position, and those that wait for one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, int | None], Position] = {}
        self._gap_since: float | None = None
        self.waiting: set[Partition] = set()

    @property
    def assigned(self) -> list[Partition]:
        """All partitions."""
        return [*self.known, *self.waiting]

    @property
    def known(self) -> list[Partition]:
        """The partitions that have a position."""
        return [Partition(*key) for key in self._known]  # type: ignore[arg-type]  # keys are Partitions

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Let new partitions wait for their position."""
        self.waiting.update(partitions)

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that are no longer assigned."""
        for partition in partitions:
            self._known.pop(partition, None)
            self.waiting.discard(partition)

    def forget(self) -> None:
        """Let every partition wait for its position anew."""
        self.waiting.update(self.known)
        self._known.clear()
        self._gap_since = None

    def set(self, partition: Partition, *, stored: int, next_offset: int) -> None:
        """Give a waiting partition its position."""
        self.waiting.discard(partition)
        self._known[partition] = Position(stored, next_offset)

    def next_offset(self, partition: Partition) -> int:
        """Return the offset to be read next of a partition that has a position."""
        return self._known[partition].next

    def take(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages that come next in their partitions, and move on past them.

        Others are left out: of partitions that were taken away or wait for a position, or read already. Offsets
        have gaps where a topic is compacted or transactional.
        """
        taken = []
        for message in messages:
            position = self._known.get((message.topic(), message.partition()))
            offset = message.offset()
            if position is not None and offset is not None and offset >= position.next:
                position.next = offset + 1
                taken.append(message)
        return taken

    def reach_end(self, partition: Partition, end: int) -> None:
        """Move on to a partition's end; there is no message in between."""
        position = self._known.get(partition)
        if position is not None and end > position.next:
            position.next = end
            self._gap_since = self._gap_since or time.monotonic()

    def gap_age(self) -> float:
        """Return how many seconds ago the first move to an end was that `advances` has not told of; 0 if none was."""
        return time.monotonic() - self._gap_since if self._gap_since else 0.0

    def advances(self) -> dict[Partition, Advance]:
        """Return how far the partitions have moved since the last call, which is what a batch has to store."""
        moved = {
            Partition(*key): Advance(position.stored, position.next)  # type: ignore[arg-type]
            for key, position in self._known.items()
            if position.next != position.stored
        }
        for position in self._known.values():
            position.stored = position.next
        self._gap_since = None
        return moved
