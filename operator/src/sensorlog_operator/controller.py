"""The threads that turn keys into reconciles: workers, and a resync that puts every key in again."""

import heapq
import math
import threading
import time
from collections.abc import Sequence

import structlog

from sensorlog.telemetry import Problem
from sensorlog_operator import metrics, tracing
from sensorlog_operator.claims import Claims
from sensorlog_operator.errors import PipelineError
from sensorlog_operator.reconcile import Reconciler
from sensorlog_operator.settings import Settings
from sensorlog_operator.surveys import Surveys
from sensorlog_operator.workqueue import WorkQueue

STALLED_LIMIT = 16
"""How many more reconciles may run while they wait for what does not answer: a thread each, that sleeps."""

GROUP = 100
"""Pipelines that are surveyed together, with a few requests to each cluster of brokers and each database."""

BEHIND_SECONDS = 10.0
"""Where pipelines wait so long for a worker, what a survey saw would be out of date before it is used."""

STOP_SECONDS = 20

log = structlog.get_logger(__name__)


class Controller:
    """Works on the queue until it is stopped."""

    def __init__(
        self, queue: WorkQueue, reconciler: Reconciler, claims: Claims, surveys: Surveys, settings: Settings
    ) -> None:
        self._queue = queue
        self._surveys = surveys
        self._looked_at: dict[str, float] = {}
        self._reconciler = reconciler
        self._claims = claims
        self._resync_seconds = settings.resync_seconds
        self._stuck_seconds = settings.stuck_seconds
        self._turned = time.monotonic()
        self._stopping = threading.Event()
        self._busy_since: dict[str, float] = {}
        threads = settings.workers + STALLED_LIMIT
        self._threads = [
            *(threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(threads)),
            threading.Thread(target=self._resync, name="resync", daemon=True),
        ]
        metrics.QUEUE_LENGTH.set_function(lambda: len(queue))
        metrics.QUEUE_AGE.set_function(queue.oldest_seconds)
        metrics.PIPELINES.set_function(lambda: len(claims.keys()))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def changed(self, key: str) -> None:
        """Look at a pipeline anew, because something of it has changed."""
        self._surveys.heard(key)
        self._queue.add(key)

    def stop(self) -> None:
        """Let every worker finish the reconcile it is in; one that takes too long is left to die with the process."""
        self._stopping.set()
        self._queue.close()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in filter(threading.Thread.is_alive, self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def not_started(self) -> Problem:
        """Return that no reconcile can begin yet; for readiness."""
        return None if self._threads[0].ident else "has not read the pipelines from the API server yet"

    def stuck(self) -> Problem:
        """Return which reconcile hangs, that the threads died or take up nothing; for liveness."""
        if self._threads[0].ident and not all(thread.is_alive() for thread in self._threads):
            return "a worker thread died"
        now = time.monotonic()
        for key, since in list(self._busy_since.items()):
            if now - since > self._stuck_seconds:
                return f"the reconcile of {key} has been running for {now - since:.0f} s"
        if min(self._queue.oldest_seconds(), now - self._turned) > self._stuck_seconds:
            return f"pipelines wait, and no worker has taken one up for {now - self._turned:.0f} s"
        return None

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            self._busy_since[key] = self._turned = time.monotonic()
            failed = True
            try:
                failed = self._reconcile(key)
            finally:
                self._busy_since.pop(key, None)
                self._queue.done(key, failed=failed)

    def _reconcile(self, key: str) -> bool:
        result = "error"
        try:
            with metrics.RECONCILE_SECONDS.time(), tracing.reconcile(key):
                retry = self._reconciler.reconcile(key)
            result = "retry" if retry else "done"
        except PipelineError as e:
            metrics.ERRORS.labels(e.reason).inc()
            log.warning("reconcile could not finish", pipeline=key, reason=e.reason, error=e.message)
        except Exception:
            log.exception("reconcile failed: this is a bug of the operator", pipeline=key)
        metrics.RECONCILES.labels(result).inc()
        return result != "done"

    def _resync(self) -> None:
        """Look at every pipeline once in a period; not at all of them at once, but at a group of them in each turn."""
        due = time.monotonic() + self._resync_seconds
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            keys = self._claims.keys()
            groups = max(1, math.ceil(len(keys) / GROUP))
            self._look_at(self._longest_ago(keys, math.ceil(len(keys) / groups)))
            due = max(due, time.monotonic() - self._resync_seconds) + self._resync_seconds / groups

    def _longest_ago(self, keys: Sequence[str], count: int) -> list[str]:
        self._looked_at = {key: self._looked_at.get(key, 0.0) for key in keys}
        return heapq.nsmallest(count, keys, key=self._looked_at.__getitem__)

    def _look_at(self, keys: Sequence[str]) -> None:
        self._looked_at |= dict.fromkeys(keys, time.monotonic())
        try:
            if self._queue.oldest_seconds() < BEHIND_SECONDS:
                self._surveys.look(keys)
        except Exception:
            log.exception("survey failed: this is a bug of the operator")
        for key in keys:
            self._queue.add(key)
