"""The work queue: what makes reconciles level-triggered."""

import threading
import time
from collections import Counter

import pytest

from sensorlog_operator import workqueue
from sensorlog_operator.workqueue import WorkQueue
from support.waiting import wait_for_value


def test_a_key_waits_once_however_often_it_is_added() -> None:
    """Repeats fold together."""
    queue = WorkQueue()
    for _ in range(3):
        queue.add("a")
    assert (queue.get(), len(queue)) == ("a", 0)


def test_a_key_that_is_worked_on_is_not_handed_out_again() -> None:
    """It comes again once it is done, when it was added meanwhile."""
    queue = WorkQueue()
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.get() == "b"
    assert len(queue) == 0
    queue.done("a")
    assert queue.get() == "a"


def test_a_failing_key_comes_again_later_each_time() -> None:
    """By itself, backing off."""
    queue = WorkQueue(base_delay=0.02, max_delay=1)
    queue.add("a")
    waits = []
    for _ in range(4):
        started = time.monotonic()
        assert queue.get() == "a"
        waits.append(time.monotonic() - started)
        queue.done("a", failed=True)
    assert waits[1] >= 0.01
    assert waits[3] >= 0.04 > waits[0]


def test_success_forgets_failures() -> None:
    """The next failure starts at the shortest delay again."""
    queue = WorkQueue(base_delay=0.01, max_delay=60)
    for failed in (True, True, True, False):
        queue.add("a")
        assert queue.get() == "a"
        queue.done("a", failed=failed)
    assert queue._failures == {}


def test_the_delay_has_a_ceiling() -> None:
    """A key that failed a thousand times still comes again within a minute."""
    queue = WorkQueue()
    queue._failures["a"] = 1000
    assert 30 <= queue._backoff("a") <= 60


def test_a_failing_key_does_not_hold_up_another() -> None:
    """What backs off is not in the way."""
    queue = WorkQueue(base_delay=30)
    queue.add("broken")
    assert queue.get() == "broken"
    queue.done("broken", failed=True)
    queue.add("fine")
    assert queue.get() == "fine"


def test_closing_sends_waiting_workers_home() -> None:
    """`get` returns None."""
    queue = WorkQueue()
    answers: list[str | None] = []
    worker = threading.Thread(target=lambda: answers.append(queue.get()))
    worker.start()
    queue.close()
    worker.join(5)
    assert answers == [None]


def test_no_key_is_worked_on_twice_at_once() -> None:
    """Many workers, many adders, and every added key is worked on at last."""
    queue = WorkQueue()
    working: Counter[str] = Counter()
    worked: Counter[str] = Counter()
    overlaps = []
    lock = threading.Lock()

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                working[key] += 1
                if working[key] > 1:
                    overlaps.append(key)
            with lock:
                working[key] -= 1
                worked[key] += 1
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for n in range(2000):
        queue.add(f"key-{n % 7}")
    deadline = time.monotonic() + 10
    while (len(queue) or +working) and time.monotonic() < deadline:
        time.sleep(0.01)
    queue.close()
    for worker in workers:
        worker.join(5)
    assert overlaps == []
    assert len(worked) == 7


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let work count as stalled after a moment; return how long that is, in seconds."""
    monkeypatch.setattr(workqueue, "PROMPT_SECONDS", 0.1)
    return 0.1


class Takes:
    """Workers that take every key that they are given; the test answers for them."""

    def __init__(self, queue: WorkQueue) -> None:
        self.keys: list[str] = []
        self._queue = queue
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while (key := self._queue.get()) is not None:
            self.keys.append(key)

    def wait(self, *keys: str) -> None:
        """Wait until these keys were taken, and no others."""
        wait_for_value(lambda: self.keys, list(keys), deadline=5, what="the keys taken")

    def stay(self, *keys: str, seconds: float) -> None:
        """See that no other key is taken for so many seconds."""
        time.sleep(seconds)
        assert self.keys == list(keys)


def test_no_more_is_worked_on_than_the_limit() -> None:
    """The next key comes when one is done."""
    queue = WorkQueue(limit=1)
    taken = Takes(queue)
    queue.add("a")
    queue.add("b")
    taken.wait("a")
    taken.stay("a", seconds=0.05)
    queue.done("a")
    taken.wait("a", "b")


def test_work_that_stalls_gives_its_place_to_another(patience: float) -> None:
    """By itself, also where nobody adds a key and nothing is done."""
    queue = WorkQueue(limit=1)
    queue.add("stalled")
    queue.add("fine")
    began = time.monotonic()
    Takes(queue).wait("stalled", "fine")
    assert time.monotonic() - began >= patience


def test_what_stalled_and_failed_is_held_back(patience: float) -> None:
    """So many of them at once as are allowed, and never in the place of what works."""
    queue = WorkQueue(base_delay=0, limit=1, stalled_limit=1)
    queue.add("dead")
    queue.add("silent")
    first = Takes(queue)
    first.wait("dead", "silent")
    time.sleep(patience)
    for key in ("dead", "silent"):
        queue.done(key, failed=True)
    first.wait("dead", "silent", "dead")
    first.stay("dead", "silent", "dead", seconds=3 * patience)
    queue.add("fine")
    first.wait("dead", "silent", "dead", "fine")
    for key in ("fine", "dead"):
        queue.done(key)
    first.wait("dead", "silent", "dead", "fine", "silent")


def test_what_is_slow_and_works_is_not_held_back(patience: float) -> None:
    """A database that takes its time is no reason to wait behind those that are away."""
    queue = WorkQueue(limit=1, stalled_limit=0)
    queue.add("slow")
    assert queue.get() == "slow"
    time.sleep(patience)
    queue.done("slow")
    queue.add("slow")
    Takes(queue).wait("slow")


def test_what_was_held_back_is_forgiven_when_it_works(patience: float) -> None:
    """It stands in line as all others do."""
    queue = WorkQueue(base_delay=0, stalled_limit=1)
    queue.add("dead")
    assert queue.get() == "dead"
    time.sleep(patience)
    queue.done("dead", failed=True)
    queue.add("dead")
    assert (len(queue), queue.oldest_seconds()) == (1, 0)
    assert queue.get() == "dead"
    queue.done("dead")
    queue.add("dead")
    assert queue.oldest_seconds() > 0
