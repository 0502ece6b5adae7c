"""Canaries: marked messages that are sent into a pipeline's topic and looked for in its query service's answers.

What is measured is what readers get: topic, ingest, database, replica if there is one, query service. Reconciles say
which pipelines have canaries and how to reach them; threads of their own send them, because one takes its time.
"""

import random
import threading
import time
from collections.abc import Callable

import structlog

from sensorlog_operator import metrics
from sensorlog_operator.canary_probe import Outcome, Probe, Route
from sensorlog_operator.workqueue import WorkQueue

WORKERS = 16
"""Canaries on their way at once: most of a canary's time is waiting, and a lost one takes all of its patience."""

log = structlog.get_logger(__name__)


class Canaries:
    """Sends the canaries of all pipelines. `changed` is called with the key of one whose condition has to be told anew.

    What it remembers is the last outcome of each: a new operator sends a canary at once.
    """

    def __init__(self, probe: Probe, changed: Callable[[str], None]) -> None:
        self._probe = probe
        self._changed = changed
        self._routes: dict[str, Route] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._due: dict[str, float] = {}
        self._lock = threading.Lock()
        self._queue = WorkQueue()
        self._threads: list[threading.Thread] = []

    def keep(self, key: str, route: Route | None) -> Outcome | None:
        """Send canaries by `route` from now on, none where it is None; return what came of the last one."""
        with self._lock:
            if route is None:
                self._forget(key)
                return None
            before = self._routes.get(key)
            self._routes[key] = route
            self._start()
            if before != route:
                self._schedule(key, 0)
            return self._outcomes.get(key)

    def _forget(self, key: str) -> None:
        if self._routes.pop(key, None):
            self._outcomes.pop(key, None)
            self._due.pop(key, None)
            metrics.forget_canary(key)
            self._queue.add(key)  # for whoever works on it to close its connections

    def _start(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"canary-{number}", daemon=True) for number in range(WORKERS)
            ]
            for thread in self._threads:
                thread.start()

    def _schedule(self, key: str, seconds: float) -> None:
        """Let the next turn come in `seconds`, whatever was said before."""
        self._due[key] = time.monotonic() + seconds
        self._queue.add_after(key, seconds)

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._turn(key)
            except Exception:
                log.exception("canary failed: this is a bug of the operator", pipeline=key)
            finally:
                self._queue.done(key)

    def _turn(self, key: str) -> None:
        with self._lock:
            route = self._routes.get(key)
            if time.monotonic() < self._due.get(key, 0.0):
                return  # of a time that was said before; the right one is to come
            if route is not None:
                self._schedule(key, route.interval * random.uniform(0.9, 1.1))  # noqa: S311 -- spreads load
        if route is None:
            self._probe.release(key)
        else:
            self._note(key, route, self._probe.outcome_of(key, route))

    def _note(self, key: str, route: Route, outcome: Outcome) -> None:
        with self._lock:
            if self._routes.get(key) != route:
                return  # it is about what is no more
            before = self._outcomes.get(key)
            self._outcomes[key] = outcome
            metrics.note_canary(key, outcome.seconds)
        if before is None or before.reason != outcome.reason:
            self._changed(key)
