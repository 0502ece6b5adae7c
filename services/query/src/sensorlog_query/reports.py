"""What the processes of one service tell their supervisor of themselves, over a pipe each.

A supervisor asks, a process answers. Questions are numbered: an answer that comes too late is not taken for the next.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry, generate_latest

from sensorlog.telemetry import Health

ANSWER_SECONDS = 2.0
"""A process that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics as Prometheus reads them, and what is wrong."""

    metrics: str
    liveness: list[str]
    readiness: list[str]


def answer(pipe: Connection, health: Health, registry: CollectorRegistry, on_end: Callable[[], None]) -> None:
    """Answer in a thread until the supervisor is gone; then `on_end`, lest anybody serves without one."""

    def repeat() -> None:
        try:
            while True:
                number = pipe.recv()
                problems = (Health.problems(checks) for checks in (health.liveness, health.readiness))
                pipe.send((number, Report(generate_latest(registry).decode(), *problems)))
        except (EOFError, OSError):
            on_end()

    threading.Thread(target=repeat, name="reports", daemon=True).start()


class Reporter:
    """A process as its supervisor sees it; may be asked from several threads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._asked = 0

    def ask(self) -> Report | None:
        """Return the process's report; None where it does not answer."""
        with self._lock:
            try:
                self._asked += 1
                self._pipe.send(self._asked)
                return self._receive(time.monotonic() + ANSWER_SECONDS)
            except (EOFError, OSError):
                return None

    def _receive(self, deadline: float) -> Report | None:
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            number, report = self._pipe.recv()
            if number == self._asked and isinstance(report, Report):
                return report
        return None

    def close(self) -> None:
        """Ask no more."""
        with self._lock:
            self._pipe.close()
