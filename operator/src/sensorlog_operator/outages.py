"""What does not answer, so that of all who need it one finds that out and the others need not wait for it too."""

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

from sensorlog_operator.errors import PipelineError, UnavailableError

HOLD_SECONDS = 2.0
"""How long nobody tries again after a try failed: less than who tries alone waits by itself soon."""

TRY_SECONDS = 20.0
"""How long a try may take before another may try too."""

FORGET_SECONDS = 600.0
"""After how long without a try an outage is forgotten: its address may be of no pipeline any more."""


@dataclass(slots=True)
class _Outage:
    error: PipelineError
    next_try: float


class Outages:
    """Servers that do not answer, by how they are reached; safe to share between threads.

    That is an address with credentials and all: with others the same server may answer.
    """

    def __init__(self) -> None:
        self._outages: dict[Hashable, _Outage] = {}
        self._lock = threading.Lock()

    def check(self, way: Hashable) -> None:
        """Return where there may be an answer; UnavailableError, as it was noted, where it is known that none comes.

        Of those who ask about a server that is away, one at a time may try.
        """
        with self._lock:
            outage, now = self._outages.get(way), time.monotonic()
            if outage is None:
                return
            if now >= outage.next_try:
                outage.next_try = now + TRY_SECONDS
                return
        raise UnavailableError(outage.error.reason, outage.error.message)

    def note(self, way: Hashable, error: PipelineError) -> None:
        """Remember that a server does not answer."""
        now = time.monotonic()
        with self._lock:
            self._outages = {w: kept for w, kept in self._outages.items() if now - kept.next_try < FORGET_SECONDS}
            self._outages[way] = _Outage(error, now + HOLD_SECONDS)

    def over(self, way: Hashable) -> None:
        """Remember that a server answers, whatever it says."""
        with self._lock:
            self._outages.pop(way, None)
