"""Whether the database can answer now, asked every second."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from psycopg import Connection, OperationalError

from sensorlog.telemetry import Heartbeat, Problem
from sensorlog_query.errors import mapped

log = structlog.get_logger()

PROBE_SECONDS = 1.0
SILENCE_SECONDS = 6.0
"""A probe that hangs this long says the same as one that fails."""
STOP_SECONDS = 3.0

NOT_YET = "the database has not answered yet"
HANGS = "the database hangs: it takes connections and does not answer"


class Watch:
    """Asks the database every second, by `ask`, whether the pipeline's tables can be read, and tells what changes.

    It has a connection of its own: a busy pool does not look like a database that is away. One thread asks, and may
    hang with the database; another tells, and never does. `listeners` hear the problem, or None, every second.
    """

    def __init__(self, connect: Callable[[], Connection[Any]], ask: Callable[[Connection[Any]], object]) -> None:
        self._connect = connect
        self._question = ask
        self._connection: Connection[Any] | None = None
        self._answer: Problem = NOT_YET
        self._answered = time.monotonic()
        self._news = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=work, name=f"database-{work[0].__name__}", daemon=True)
            for work in ((self._ask, self._stop), (self._tell, self._news))
        ]
        self._told: Problem = NOT_YET
        self.heartbeat = Heartbeat("the database watch", max_silence=120.0)
        self.listeners: list[Callable[[Problem], None]] = []

    def problem(self) -> Problem:
        """Return why queries cannot be answered now; None when they can. The listeners have heard the same."""
        return self._told

    def start(self) -> None:
        """Ask until `stop`."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._news.set()
        for thread in self._threads:
            thread.join(timeout=STOP_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            self._disconnect()

    def _repeat(self, turn: Callable[[], None], sooner: threading.Event) -> None:
        """Take a turn every second, and `sooner` when something happens."""
        while not self._stop.is_set():
            turn()
            sooner.wait(PROBE_SECONDS)

    def _ask(self) -> None:
        try:
            with suppress_instrumentation():  # a trace every second would say nothing
                self._ask_once()
            self._answer = None
        except Exception as e:  # noqa: BLE001 -- whatever it is, it is why the database cannot be read
            self._disconnect()
            self._answer = str(mapped(e))
        self._answered = time.monotonic()
        self._news.set()

    def _ask_once(self) -> None:
        if self._connection is not None:
            try:
                self._question(self._connection)
            except OperationalError:
                # The connection, or the database? Calls are refused while it is the database: a new one tells.
                self._disconnect()
            else:
                return
        self._connection = self._connect()
        self._question(self._connection)

    def _tell(self) -> None:
        self._news.clear()
        silent = time.monotonic() - self._answered > SILENCE_SECONDS
        problem = HANGS if silent and self._answer is None else self._answer
        for listener in self.listeners:
            listener(problem)
        if problem != self._told:
            log.info("database watch", problem=problem)
        self._told = problem
        self.heartbeat.beat()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
