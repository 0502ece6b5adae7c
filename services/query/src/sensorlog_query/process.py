"""One process that serves: alone, or as one of several under a supervisor."""

import gc
import signal
from multiprocessing.connection import Connection

import structlog
from prometheus_client import REGISTRY

from sensorlog.pipeline import PipelineConfig
from sensorlog.telemetry import Health, StopSignal, TelemetryServer, configure_logging
from sensorlog_query import reports
from sensorlog_query.server import QueryServer
from sensorlog_query.settings import Settings

log = structlog.get_logger()


def serve(settings: Settings, pipeline: PipelineConfig, stop: StopSignal) -> None:
    """Serve until `stop`, with a telemetry port; BindError or OSError without a port."""
    server = QueryServer(settings, pipeline, REGISTRY)
    telemetry = TelemetryServer(settings.telemetry_port, _health(server))
    telemetry.start()
    _run(server, settings, stop)
    telemetry.stop()


def serve_as_child(settings: Settings, pipeline: PipelineConfig, supervisor: Connection) -> None:
    """Serve until SIGTERM or until the supervisor is gone, who is told what a telemetry port would tell."""
    stop = StopSignal()
    stop.install()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everybody; the supervisor passes it on
    configure_logging("query", level=settings.log_level, log_format=settings.log_format)
    server = QueryServer(settings, pipeline, REGISTRY)
    reports.answer(supervisor, _health(server), REGISTRY, on_end=stop.set)
    _run(server, settings, stop)


def _health(server: QueryServer) -> Health:
    health = Health()
    health.liveness.append(server.liveness)
    health.readiness.append(server.readiness)
    return health


def _run(server: QueryServer, settings: Settings, stop: StopSignal) -> None:
    server.start()
    # What exists by now stays until the end: the garbage collector need not look through it again and again, which
    # took up to a tenth of the time of a busy process.
    gc.collect()
    gc.freeze()
    stop.wait()
    log.info("stopping", grace_seconds=settings.shutdown_seconds)
    server.stop()
