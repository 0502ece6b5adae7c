"""What every process shows of itself: logs, metrics, health, and how it hears that it must stop.

One HTTP port serves `/metrics` (Prometheus), `/livez` and `/readyz` (Kubernetes probes; the body says why not).
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from types import FrameType
from typing import Literal

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from sensorlog.http_port import HttpPort

LogFormat = Literal["auto", "json", "console"]

Problem = str | None
"""Why a check does not pass; None when it passes."""


# Local variables stay out of tracebacks: they may hold credentials.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure_logging(service: str, *, level: str = "INFO", log_format: LogFormat = "auto") -> None:
    """Send this process's logs, the standard library's included, to stderr as structured lines.

    `auto` is coloured text on a terminal and JSON elsewhere.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())

    def add_service(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [_EXCEPTIONS, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("urllib3").setLevel(logging.INFO)  # at DEBUG it says every request


class StopSignal:
    """Turns SIGTERM and SIGINT into an event that loops can wait on.

    Install it in the main thread before any work starts.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def install(self) -> None:
        """Take over SIGTERM and SIGINT. A second signal ends the process the default way."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.set()

    def set(self) -> None:
        """Ask everybody to stop."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether stopping was asked for."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until stopping is asked for or `seconds` have passed; return whether it was asked for."""
        return self._event.wait(seconds)


class Heartbeat:
    """Proof that a loop turned lately: the loop beats, liveness asks.

    `max_silence` is in seconds and must exceed the longest turn that is still healthy.
    """

    def __init__(self, name: str, max_silence: float) -> None:
        self._name = name
        self._max_silence = max_silence
        self._last = time.monotonic()

    def beat(self) -> None:
        """Note that the loop turned."""
        self._last = time.monotonic()

    def __call__(self) -> Problem:
        """Return how long the loop has been silent when that is too long."""
        silence = time.monotonic() - self._last
        if silence > self._max_silence:
            return f"{self._name} has not turned for {silence:.0f} s (limit {self._max_silence:.0f} s)"
        return None


class Health:
    """The checks behind `/livez` and `/readyz`.

    Liveness asks whether a restart would help; readiness whether the process does its job now.
    """

    def __init__(self) -> None:
        self.liveness: list[Callable[[], Problem]] = []
        self.readiness: list[Callable[[], Problem]] = []

    @staticmethod
    def problems(checks: Iterable[Callable[[], Problem]]) -> list[str]:
        """Return what is wrong, one line a check that does not pass."""
        return [problem for check in checks if (problem := check()) is not None]


class TelemetryServer(HttpPort):
    """The HTTP port of metrics and probes, served by daemon threads."""

    def __init__(self, port: int, health: Health, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__("", port, _handler(health, registry), "telemetry")


def _handler(health: Health, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                case "/livez":
                    self._probe(Health.problems(health.liveness))
                case "/readyz":
                    self._probe(Health.problems(health.readiness))
                case _:
                    self._answer(404, b"not here: try /metrics, /livez or /readyz\n")

        def _probe(self, problems: list[str]) -> None:
            self._answer(503 if problems else 200, ("\n".join(problems or ["ok"]) + "\n").encode())

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
