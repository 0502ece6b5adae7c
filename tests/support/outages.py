"""What tests of outages share: readings that flow all the while, and what ingest must show of itself meanwhile."""

import contextlib
import time
from collections.abc import Callable, Iterator

from support.pipelines import Pipeline
from support.processes import ServiceProcess
from support.streams import flowing, unique_readings
from support.waiting import wait_until

PER_MESSAGE = 10
SETTLE_SECONDS = 90

DATABASE_AWAY = "the database does not take batches"
BROKER_AWAY = "no broker answers"


@contextlib.contextmanager
def stored_once(
    pipeline: Pipeline, *, seconds: float = 12, per_second: float = 500, padding: int = 0
) -> Iterator[None]:
    """Let messages flow during this block, then check that each reading is stored, and stored once.

    They flow for `seconds` or, when the block takes longer, are over before its end. `padding` is how many bytes of
    nothing each message carries.
    """
    readings = int(seconds * per_second) * PER_MESSAGE
    messages = unique_readings(readings, per_message=PER_MESSAGE)
    if padding:
        messages = ([first | {"note": "." * padding}, *rest] for first, *rest in messages)
    with flowing(pipeline, messages, per_second=per_second):
        wait_for_progress(pipeline)
        yield
    wait_settled(pipeline, readings)


def wait_settled(pipeline: Pipeline, readings: int) -> None:
    """Wait until that many readings are stored, all of them different."""
    wait_until(pipeline.count, lambda n: n >= readings, deadline=SETTLE_SECONDS, what=f"{readings} readings")
    assert pipeline.counts() == (readings, readings)


def wait_for_progress(pipeline: Pipeline) -> None:
    """Wait until more is stored than now."""
    before = pipeline.count()
    wait_until(pipeline.count, lambda stored: stored > before, deadline=SETTLE_SECONDS, what="more readings")


def wait_unready(process: ServiceProcess, reason: str, *, deadline: float = 60) -> None:
    """Wait until readiness says no with this reason; liveness must say yes all the while."""

    def look() -> tuple[int, str]:
        seen.append(process.get("/livez"))
        return process.get("/readyz")

    seen: list[tuple[int, str]] = []
    wait_until(
        look,
        lambda reply: reply[0] == 503 and reason in reply[1],
        deadline=deadline,
        what=f"readiness to say {reason!r}",
    )
    assert {status for status, _ in seen} == {200}, seen


def outlast(process: ServiceProcess, seconds: float, look: Callable[[], object] = lambda: None) -> None:
    """Let an outage take its time: here it is the length that is tested. Liveness must say yes all the while.

    `look` is called twice a second.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.get("/livez")[0] == 200
        look()
        time.sleep(0.5)
