"""How old an answer may be: nothing on a primary, and on a replica as long as what it lacks may have been committed.

Replication has no clock, so this is a bound: an answer is at most so old, and often younger. A replica holds all that
was committed up to a moment T, and T is the later of what two witnesses say:

- The replica itself: when the last transaction that it replayed was committed (after a restart, when the checkpoint
  that it began from was made). As long as anything is written to the primary, that is how far it lags. On an idle
  primary it grows although nothing is missing. It compares the clocks of two servers.
- The primary, where the service may ask it: the position in its log, once a second. A replica that has replayed this
  position had everything at that moment, also when the primary is idle, and only this process's clock counts.

Not a witness is a replica that has replayed all that it received while its WAL receiver runs: the receiver of a cut
connection goes on running for wal_receiver_timeout (a minute). When the last message came is hidden from roles without
pg_read_all_stats, and behind a cascading replica it tells nothing of the primary.

A sample is taken on the connection that answers, before it does: another connection of the same address may lead to
another replica. It serves a second, in which the bound grows with it, so that not each call pays for one.
"""

import math
import re
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import grpc
from psycopg import Connection

from sensorlog_query import sql
from sensorlog_query.errors import InvalidArgumentError

MAX_STALENESS = "max-staleness-ms"
LONGEST_MS = 365 * 86_400_000
NUMBER = re.compile("[0-9]{1,11}")

SAMPLE_SECONDS = 1.0
KEPT_POSITIONS = 3_600
"""Positions of a primary that is written to, an hour of them: a replica that lags longer has the other witness."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server said of itself; `taken` is before it did, on the clock of `time.monotonic`."""

    taken: float
    position: int
    """How far a replica has replayed, in bytes; -1 on a primary."""
    lag_seconds: float
    """How long ago the last transaction that a replica replayed was committed; 0 on a primary."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self.taken > SAMPLE_SECONDS


def sample(connection: Connection[Any]) -> Sample:
    """Ask the server of a connection how far it is; psycopg.Error where it does not answer."""
    taken = time.monotonic()
    row = connection.execute(sql.REPLAYED).fetchone()
    position, lag = row or (None, 0.0)
    if position is None:
        return Sample(taken, -1, 0.0)
    return Sample(taken, int(position), max(0.0, lag))


class Positions:
    """Where the log of the primary ended, and when; kept by one thread, read by many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[int] = []
        self._moments: list[float] = []

    def observe(self, primary: Connection[Any]) -> None:
        """Ask the primary where its log ends; psycopg.Error where it does not answer."""
        asked = time.monotonic()
        row = primary.execute(sql.WRITTEN).fetchone()
        if row and row[0] is not None:  # a server that is not promoted yet has written nothing
            self.note(int(row[0]), asked)

    def note(self, end: int, moment: float) -> None:
        """Remember that the log ended at `end` at a `moment` later than those before."""
        with self._lock:
            if self._ends and end < self._ends[-1]:  # another primary, which lacks the last of the one before
                self._forget(len(self._ends))
            if self._ends and end == self._ends[-1]:
                self._moments[-1] = moment
                return
            self._ends.append(end)
            self._moments.append(moment)
            self._forget(len(self._ends) - KEPT_POSITIONS)

    def reached_at(self, position: int) -> float:
        """Return the last known moment at which the log ended at or before `position`; -inf where none is known."""
        with self._lock:
            number = bisect_right(self._ends, position)
            return self._moments[number - 1] if number else -math.inf

    def _forget(self, number: int) -> None:
        if number > 0:
            del self._ends[:number], self._moments[:number]


def staleness_ms(sampled: Sample, positions: Positions | None) -> int:
    """Return how old at most an answer is that is given now, in milliseconds rounded up; 0 on a primary."""
    if sampled.position < 0:
        return 0
    now = time.monotonic()
    seconds = now - sampled.taken + sampled.lag_seconds
    if positions is not None:
        seconds = min(seconds, now - positions.reached_at(sampled.position))
    return math.ceil(seconds * 1000)


def accepted_staleness(context: grpc.ServicerContext) -> int | None:
    """Return the `max-staleness-ms` of a call's metadata, None without one; InvalidArgumentError where it is none."""
    values = [value for key, value in context.invocation_metadata() if key == MAX_STALENESS]
    if not values:
        return None
    [text] = values if len(values) == 1 else [""]
    milliseconds = int(text) if NUMBER.fullmatch(str(text)) else -1
    if not 0 <= milliseconds <= LONGEST_MS:
        raise InvalidArgumentError(
            MAX_STALENESS, f"must be given once, as a whole number of milliseconds between 0 and {LONGEST_MS}"
        )
    return milliseconds
