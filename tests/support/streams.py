"""Readings that keep flowing while a test breaks things."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from support.pipelines import SEED_TS, Pipeline

SENSORS = 100


def unique_readings(count: int, *, per_message: int) -> Iterator[list[dict[str, Any]]]:
    """Yield messages of readings that all differ in (ts, sensor_id), so that a doubled one shows."""
    for start in range(0, count, per_message):
        yield [
            {"ts": SEED_TS + number // SENSORS, "sensor_id": number % SENSORS, "temperature": 20.5, "cpu": number % 100}
            for number in range(start, min(start + per_message, count))
        ]


def _paced(values: Iterable[Any], per_second: float, stop: threading.Event) -> Iterator[Any]:
    started = time.monotonic()
    for number, value in enumerate(values):
        ahead = number / per_second - (time.monotonic() - started)
        if ahead > 0.01:
            stop.wait(ahead)  # keeps a rate; no condition is waited for
        if stop.is_set():
            return
        yield value


@contextlib.contextmanager
def flowing(pipeline: Pipeline, values: Iterable[Any], *, per_second: float, **options: Any) -> Iterator[None]:
    """Send messages at a rate during this block, and wait at its end until all of them are sent.

    When the block fails, the rest is not sent. An error of the producer is raised at the end.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def produce() -> None:
        try:
            pipeline.produce(_paced(values, per_second, stop), **options)
        except BaseException as e:  # noqa: BLE001 -- raised below, in the test's thread
            failures.append(e)

    thread = threading.Thread(target=produce, name="producer", daemon=True)
    thread.start()
    try:
        yield
        thread.join(timeout=180)
    finally:
        stop.set()
        thread.join(timeout=60)
    assert not thread.is_alive(), "the producer did not finish"
    if failures:
        raise failures[0]
