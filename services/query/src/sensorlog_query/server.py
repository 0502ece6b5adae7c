"""The gRPC server: methods, health, reflection, limits, and how it stops."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import structlog
from prometheus_client import CollectorRegistry

from sensorlog import measurements
from sensorlog.pipeline import PipelineConfig
from sensorlog.rpc import logger_pb2_grpc
from sensorlog.telemetry import Problem
from sensorlog_query.authentication import Authentication
from sensorlog_query.averages import Averages
from sensorlog_query.boundary import Boundary
from sensorlog_query.certificate import ServerCertificate
from sensorlog_query.database import Database
from sensorlog_query.exports import Exports
from sensorlog_query.health import SERVICE_NAME, Health
from sensorlog_query.metrics import CertificateMetrics, DatabaseMetrics, Metrics, PoolCollector
from sensorlog_query.readings import Readings
from sensorlog_query.reflecting import enable_reflection
from sensorlog_query.replies import Replies, largest_page_bytes
from sensorlog_query.reviews import ApiServer, Resource
from sensorlog_query.service import Answers, Limits, Logger
from sensorlog_query.settings import Settings
from sensorlog_query.source import PoolLimits
from sensorlog_query.sql import Statements
from sensorlog_query.undelivered import Undelivered
from sensorlog_query.validation import Validator
from sensorlog_query.watching import Watches, WatchLimits
from sensorlog_query.watching_source import WatchSource, connector
from sensorlog_query.watching_threads import WatchThreads, call_threads
from sensorlog_query.wrapping import SERVICE

log = structlog.get_logger()

HEALTH_NAMES = ("", SERVICE)
"""The process as a whole and its one service, https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""

MAX_REQUEST_BYTES = 1024 * 1024
LEAST_REPLY_BYTES = 64 * 1024 * 1024
CANCELLERS = 4


class BindError(Exception):
    """The port cannot be listened on."""


def _options(pipeline: PipelineConfig, settings: Settings) -> list[tuple[str, Any]]:
    largest = largest_page_bytes(measurements.names(pipeline.measurements))
    return [
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", max(LEAST_REPLY_BYTES, largest)),
        # A caller that vanished without a word is noticed, and its statement cancelled.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Callers may ping as often as every 10 s, also between calls.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Processes of one supervisor share the port. Others would share its calls without anybody noticing.
        ("grpc.so_reuseport", int(settings.processes > 1)),
        # Callers connect anew now and then, so that they find new pods, and have left when this one ends: what a server
        # that stops is sent before the caller knows ends CANCELLED. What is at work on an old connection goes on.
        ("grpc.max_connection_age_ms", round(settings.connection_seconds * 1000)),
    ]


def _interceptors(settings: Settings, pipeline: PipelineConfig, metrics: Metrics) -> list[grpc.ServerInterceptor]:
    """Return them from the outermost to the innermost."""
    outer: list[grpc.ServerInterceptor] = [WatchThreads(settings.max_watches), Boundary(metrics)]
    if settings.auth == "none":
        return outer
    api_server = ApiServer(settings.auth_api_server, settings.auth_dir)
    resource = Resource(pipeline.namespace, pipeline.name)
    return [*outer, Authentication(api_server, resource, settings.auth_audience, settings.auth_cache_seconds)]


def _pool_limits(settings: Settings) -> PoolLimits:
    return PoolLimits(settings.pool_min, settings.pool_max, settings.pool_wait_seconds)


def _primary(settings: Settings) -> tuple[Path, PoolLimits] | None:
    if settings.primary_dir is None:
        return None
    return settings.primary_dir, PoolLimits(0, settings.primary_pool_max, settings.pool_wait_seconds)


class QueryServer:
    """Everything that answers calls, between `start` and `stop`."""

    def __init__(self, settings: Settings, pipeline: PipelineConfig, registry: CollectorRegistry) -> None:
        names = measurements.names(pipeline.measurements)
        statements = Statements(pipeline.db_schema, names)
        self._settings = settings
        self._metrics = Metrics(registry)
        database_metrics = DatabaseMetrics(registry)
        self.database = Database(
            settings.database_dir, statements, _pool_limits(settings), database_metrics, _primary(settings)
        )
        registry.register(PoolCollector(self.database.pool))
        self._watch_sources = self._sources_of_watches(statements)
        self._watches = Watches(
            self._watch_sources,
            WatchLimits(settings.max_watches, settings.export_stall_seconds),
            columns=2 + len(names),
            on_fallback=database_metrics.fallbacks.inc,
        )
        self._canceller = ThreadPoolExecutor(CANCELLERS, thread_name_prefix="cancel")
        self._health = Health(HEALTH_NAMES)
        self._stopping = threading.Event()
        self._server = self._build(pipeline, names, statements)
        self._certificate = self._load_certificate(registry)
        self.port = self._bind()

    def _sources_of_watches(self, statements: Statements) -> list[WatchSource]:
        """Return them in the order of the database's servers."""
        directories = [self._settings.database_dir, self._settings.primary_dir]
        return [
            WatchSource(connector(directory), statements, self.database.staleness_of, self._settings.watch_buffer)
            for directory in directories
            if directory is not None
        ]

    def _build(self, pipeline: PipelineConfig, names: tuple[str, ...], statements: Statements) -> grpc.Server:
        server = grpc.server(
            ThreadPoolExecutor(
                call_threads(self._settings.workers, self._settings.max_watches), thread_name_prefix="call"
            ),
            interceptors=[
                *_interceptors(self._settings, pipeline, self._metrics),
                Undelivered(self._settings.max_unread_bytes),
            ],
            options=_options(pipeline, self._settings),
            maximum_concurrent_rpcs=self._settings.max_calls + self._settings.max_watches,
        )
        logger_pb2_grpc.add_LoggerServicer_to_server(self._logger(pipeline, names, statements), server)
        self._health.add_to(server)
        enable_reflection(server, (SERVICE, SERVICE_NAME))
        return server

    def _logger(self, pipeline: PipelineConfig, names: tuple[str, ...], statements: Statements) -> Logger:
        answers = Answers(
            Readings(self.database, statements),
            Averages(self.database, statements, self._metrics.rolled_up),
            Exports(self.database, statements, self._settings.max_exports, self._settings.export_stall_seconds),
            self._watches,
        )
        return Logger(
            answers=answers,
            validator=Validator(pipeline.db_schema, pipeline.timestamp_unit, names),
            replies=Replies(pipeline.timestamp_unit, names),
            metrics=self._metrics,
            limits=Limits(self._settings.statement_seconds, self._settings.export_seconds),
            canceller=self._canceller,
        )

    def _load_certificate(self, registry: CollectorRegistry) -> ServerCertificate | None:
        if self._settings.tls_dir is None:
            return None
        require_client = self._settings.tls_client_auth == "require"
        return ServerCertificate(
            self._settings.tls_dir, require_client=require_client, metrics=CertificateMetrics(registry)
        )

    def _bind(self) -> int:
        address = f"[::]:{self._settings.grpc_port}"
        try:
            if self._certificate is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._certificate.credentials())
        except RuntimeError as e:
            raise BindError(f"cannot listen on port {self._settings.grpc_port}: {e}") from e

    def start(self) -> None:
        """Serve. Healthy from when the database answers."""
        self._on_database(self.database.watch.problem())
        self.database.watch.listeners.append(self._on_database)
        for server, source in zip(self.database.watches, self._watch_sources, strict=True):
            server.listeners.append(source.on_database)
        self.database.open()
        if self._certificate is not None:
            self._certificate.start()
        self._server.start()
        log.info("serving", port=self.port)

    def stop(self) -> None:
        """Turn new callers away, let calls at work finish, and give everything back."""
        self._stopping.set()
        self._health.stop()
        stopped = self._server.stop(self._settings.shutdown_seconds)
        self._watches.close()  # whose callers must not find this server again
        stopped.wait()
        if self._certificate is not None:
            self._certificate.stop()
        self.database.close()
        self._canceller.shutdown()

    def readiness(self) -> Problem:
        """Return why calls cannot be answered now; None when they can."""
        return "shutting down" if self._stopping.is_set() else self.database.watch.problem()

    def liveness(self) -> Problem:
        """Return why a restart would help; None when it would not. A database that is away is no reason."""
        return self.database.watch.heartbeat()

    def _on_database(self, problem: Problem) -> None:
        self._metrics.database_up.set(problem is None)
        self._health.set(serving=problem is None)
