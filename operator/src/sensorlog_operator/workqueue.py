"""A queue of keys in the manner of client-go's workqueue: the shape that makes a reconcile level-triggered.

A key that waits is there once however often it is added; a key that is worked on is never handed out twice, and comes
again afterwards when it was added meanwhile; a key that fails comes again by itself, later each time.
Source: k8s.io/client-go/util/workqueue.
"""

import heapq
import random
import threading
import time
from collections import OrderedDict

BASE_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 60.0


class WorkQueue:
    """Keys to work on; safe to share between threads."""

    def __init__(self, *, base_delay: float = BASE_DELAY_SECONDS, max_delay: float = MAX_DELAY_SECONDS) -> None:
        self._base = base_delay
        self._max = max_delay
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._later: list[tuple[float, str]] = []
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
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
                if self._waiting:
                    key, _ = self._waiting.popitem(last=False)
                    self._working.add(key)
                    return key
                self._changed.wait(self._until_next())
            return None

    def done(self, key: str, *, failed: bool = False) -> None:
        """Say that the key was worked on; one that failed comes again by itself, backing off with jitter."""
        with self._changed:
            self._working.discard(key)
            if failed:
                heapq.heappush(self._later, (time.monotonic() + self._backoff(key), key))
            else:
                self._failures.pop(key, None)
            if key in self._again:
                self._again.discard(key)
                self._add(key)
            self._changed.notify()

    def forget(self, key: str) -> None:
        """Drop what is remembered of a key that exists no more."""
        with self._changed:
            self._failures.pop(key, None)

    def close(self) -> None:
        """Send every worker home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)

    def oldest_seconds(self) -> float:
        """Return how long the first key has been waiting, in seconds."""
        with self._changed:
            first = next(iter(self._waiting.values()), None)
            return 0.0 if first is None else time.monotonic() - first

    def _add(self, key: str) -> None:
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._changed.notify()

    def _wake(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._add(heapq.heappop(self._later)[1])

    def _until_next(self) -> float | None:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def _backoff(self, key: str) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        ceiling = min(self._max, self._base * 2.0 ** min(failures, 32))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter, not a secret
