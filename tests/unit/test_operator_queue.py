"""The work queue: what makes reconciles level-triggered."""

import threading
import time
from collections import Counter

from sensorlog_operator.workqueue import WorkQueue


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
