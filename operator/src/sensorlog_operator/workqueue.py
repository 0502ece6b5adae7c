"""A queue of keys in the manner of client-go's workqueue: the shape that makes a reconcile level-triggered.

A key that waits is there once however often it is added; a key that is worked on is never handed out twice, and comes
again afterwards when it was added meanwhile; a key that fails comes again by itself, later each time.
Source: k8s.io/client-go/util/workqueue.

What waits for a broker or a database that does not answer is in nobody's way: work that takes longer than
`PROMPT_SECONDS` counts no more against `limit`, and a key that failed after so long stands in a line of its own, from
which no more than `stalled_limit` are worked on.
"""

import heapq
import math
import random
import threading
import time
from collections import OrderedDict

BASE_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 60.0
PROMPT_SECONDS = 2.0
"""What takes longer does not work, it waits: for a broker or a database that does not answer."""


class WorkQueue:
    """Keys to work on; safe to share between threads."""

    def __init__(
        self,
        *,
        base_delay: float = BASE_DELAY_SECONDS,
        max_delay: float = MAX_DELAY_SECONDS,
        limit: float = math.inf,
        stalled_limit: float = math.inf,
    ) -> None:
        self._base = base_delay
        self._max = max_delay
        self._limit = limit
        self._stalled_limit = stalled_limit
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._held_back: OrderedDict[str, float] = OrderedDict()
        self._later: list[tuple[float, str]] = []
        self._working: dict[str, float] = {}
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._stalling: set[str] = set()
        self._closed = False

    def add(self, key: str) -> None:
        """Hand the key out as soon as a worker is free."""
        with self._changed:
            self._add(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Add the key once `seconds` have passed."""
        with self._changed:
            heapq.heappush(self._later, (time.monotonic() + seconds, key))
            self._changed.notify()

    def get(self) -> str | None:
        """Wait for a key and return it; None once the queue is closed. Answer each key with `done`."""
        with self._changed:
            while not self._closed:
                self._wake()
                if (key := self._next()) is not None:
                    self._working[key] = time.monotonic()
                    return key
                self._changed.wait(self._until_next())
            return None

    def done(self, key: str, *, failed: bool = False) -> None:
        """Say that the key was worked on; one that failed comes again by itself, backing off with jitter."""
        with self._changed:
            began = self._working.pop(key)
            if failed:
                heapq.heappush(self._later, (time.monotonic() + self._backoff(key), key))
            else:
                self._failures.pop(key, None)
            self._note(key, stalls=failed and time.monotonic() - began >= PROMPT_SECONDS)
            if key in self._again:
                self._again.discard(key)
                self._add(key)
            self._changed.notify()

    def forget(self, key: str) -> None:
        """Drop what is remembered of a key that exists no more."""
        with self._changed:
            self._failures.pop(key, None)
            self._stalling.discard(key)

    def close(self) -> None:
        """Send every worker home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._held_back)

    def oldest_seconds(self) -> float:
        """Return how long the first key has been waiting that nothing holds back, in seconds."""
        with self._changed:
            first = next(iter(self._waiting.values()), None)
            return 0.0 if first is None else time.monotonic() - first

    def _add(self, key: str) -> None:
        if key in self._working:
            self._again.add(key)
            return
        if key not in self._waiting and key not in self._held_back:
            line = self._held_back if key in self._stalling else self._waiting
            line[key] = time.monotonic()
            self._changed.notify()

    def _wake(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._add(heapq.heappop(self._later)[1])

    def _next(self) -> str | None:
        """Take the next key that may be worked on now, if there is one."""
        prompt = len(self._prompt())
        if self._waiting and prompt < self._limit:
            return self._waiting.popitem(last=False)[0]
        if self._held_back and len(self._working) - prompt < self._stalled_limit:
            return self._held_back.popitem(last=False)[0]
        return None

    def _prompt(self) -> list[float]:
        """Return since when the keys are worked on that count against the limit."""
        recent = time.monotonic() - PROMPT_SECONDS
        return [began for key, began in self._working.items() if began > recent and key not in self._stalling]

    def _until_next(self) -> float | None:
        moments = [self._later[0][0]] if self._later else []
        if self._waiting:
            moments += [began + PROMPT_SECONDS for began in self._prompt()]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _note(self, key: str, *, stalls: bool) -> None:
        if stalls:
            self._stalling.add(key)
        else:
            self._stalling.discard(key)

    def _backoff(self, key: str) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        ceiling = min(self._max, self._base * 2.0 ** min(failures, 32))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter, not a secret
