"""The workers: what liveness says of them."""

import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.controller import GROUP, Controller
from sensorlog_operator.mirror import Mirror
from sensorlog_operator.models import Pipeline
from sensorlog_operator.reconcile import Reconciler
from sensorlog_operator.settings import Settings
from sensorlog_operator.surveys import Surveys
from sensorlog_operator.workqueue import WorkQueue
from support.resources import pipeline_body
from support.waiting import wait_for_value, wait_until

STUCK_SECONDS = 0.3


class Reconciles:
    """Reconciles that hang until they are let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.done: list[str] = []

    def reconcile(self, key: str) -> bool:
        """Hang."""
        self.go_on.wait(20)
        self.done.append(key)
        return False


class Workers:
    """A controller, its queue, and what it does."""

    def __init__(self, queue: WorkQueue) -> None:
        self.queue, self.reconciles = queue, Reconciles()
        reconciler = cast("Reconciler", self.reconciles)
        settings = Settings(ingest_image="ingest", query_image="query", stuck_seconds=STUCK_SECONDS)
        nothing = Surveys(cast("Mirror", None))  # there are no pipelines to look at
        self.controller = Controller(queue, reconciler, Claims(), nothing, settings)

    def wait_stuck(self, why: str) -> None:
        """Wait until liveness says no."""
        wait_until(
            self.controller.stuck, lambda problem: problem is not None and why in problem, deadline=10, what="liveness"
        )


class Looks:
    """Surveys that see nothing, and remember what they were asked to look at."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def look(self, keys: list[str]) -> None:
        """Take a group."""
        self.groups.append(keys)


def test_every_pipeline_is_looked_at_once_in_a_period_and_not_all_at_the_same_time() -> None:
    """In groups of a limited size, spread over the period: none is left out, none comes twice before the others."""
    claims, looks, count = Claims(), Looks(), 250
    for number in range(count):
        body = pipeline_body(name=f"plant-{number}", uid=str(number))
        claims.put(Claim.of(Pipeline.from_body(body)))
    settings = Settings(ingest_image="ingest", query_image="query", resync_seconds=0.3)
    reconciles = Reconciles()
    reconciles.go_on.set()
    controller = Controller(WorkQueue(), cast("Reconciler", reconciles), claims, cast("Surveys", looks), settings)
    controller.start()
    try:
        wait_until(lambda: len(looks.groups) >= 9, deadline=20, what="three periods")
    finally:
        controller.stop()
    rounds = [looks.groups[first : first + 3] for first in (0, 3, 6)]
    assert max(map(len, looks.groups)) <= GROUP
    assert [len({key for group in groups for key in group}) for groups in rounds] == [count] * 3


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Yield workers that are started, and stop them."""
    made = Workers(WorkQueue())
    made.controller.start()
    yield made
    made.reconciles.go_on.set()
    made.controller.stop()


def test_who_has_nothing_to_do_is_alive(workers: Workers) -> None:
    """However long it lasts."""
    time.sleep(2 * STUCK_SECONDS)
    assert workers.controller.stuck() is None


def test_who_has_not_begun_is_alive_and_not_ready() -> None:
    """As while the API server is away when it starts."""
    controller = Workers(WorkQueue()).controller
    assert controller.stuck() is None
    assert "has not read the pipelines" in (controller.not_started() or "")


def test_a_reconcile_that_hangs_is_told(workers: Workers) -> None:
    """By the pipeline's name, until it goes on."""
    workers.queue.add("plants/hall")
    workers.wait_stuck("the reconcile of plants/hall has been running for")
    workers.reconciles.go_on.set()
    wait_for_value(workers.controller.stuck, None, deadline=10, what="liveness")
    assert workers.reconciles.done == ["plants/hall"]


class Deaf(WorkQueue):
    """A queue that hands nothing out, as one whose waiters are never woken."""

    def get(self) -> str | None:
        """Wait until the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed)
        return None


def test_pipelines_that_nobody_takes_up_are_told() -> None:
    """Though no reconcile hangs."""
    workers = Workers(Deaf())
    workers.controller.start()
    try:
        time.sleep(2 * STUCK_SECONDS)
        assert workers.controller.stuck() is None
        workers.queue.add("plants/hall")
        workers.wait_stuck("no worker has taken one up")
    finally:
        workers.controller.stop()


def test_a_worker_that_died_is_told(workers: Workers) -> None:
    """One thread fewer is no accident that a restart would not mend."""
    workers.queue.close()
    workers.wait_stuck("a worker thread died")
