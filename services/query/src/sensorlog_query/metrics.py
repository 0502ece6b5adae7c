"""What Prometheus is told of the query service, under the prefix `sensorlog_query_`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg_pool import ConnectionPool

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)
"""From the fastest unary call to a long export."""


class Metrics:
    """The service's own metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("sensorlog_query_requests", "Calls that ended.", ["method", "code"], registry=registry)
        self.seconds = Histogram(
            "sensorlog_query_request_seconds",
            "Time from a call's start to its end; streams to their last message.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "sensorlog_query_requests_in_flight", "Calls at work now.", ["method"], registry=registry
        )
        rows = Counter("sensorlog_query_rows_returned", "Rows sent to callers.", ["method"], registry=registry)
        self.rows = _ByMethod(rows)
        self.rolled_up = Counter(
            "sensorlog_query_rollup_answers",
            "Calls about buckets that a rollup answered, all or in part.",
            ["rollup"],
            registry=registry,
        )
        self.database_up = Gauge(
            "sensorlog_query_database_up", "1 when the pipeline's tables can be read.", registry=registry
        )


class _ByMethod(dict[str, Counter]):
    """A metric's counter of each method, looked up once."""

    def __init__(self, metric: Counter) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, method: str) -> Counter:
        self[method] = self._metric.labels(method)
        return self[method]


class MethodMetrics:
    """What is told of the calls of one method: to look a metric's labels up costs more than to count."""

    def __init__(self, metrics: Metrics, method: str) -> None:
        self.in_flight = metrics.in_flight.labels(method)
        self._seconds = metrics.seconds.labels(method)
        self._requests: dict[grpc.StatusCode, Counter] = {}
        self._of_code = partial(metrics.requests.labels, method)

    def ended(self, code: grpc.StatusCode, seconds: float) -> None:
        """Count a call that took so long."""
        requests = self._requests.get(code)
        if requests is None:
            requests = self._requests[code] = self._of_code(code.name)
        requests.inc()
        self._seconds.observe(seconds)
        self.in_flight.dec()


class DatabaseMetrics:
    """How old the data are that calls are answered from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.staleness = Gauge(
            "sensorlog_query_staleness_seconds",
            "How old at most the data of the database are, which may be a replica; 0 on a primary.",
            registry=registry,
        )
        self.fallbacks = Counter(
            "sensorlog_query_primary_fallbacks",
            "Calls answered, and watches continued, by the primary: the replica's data were older than they accept.",
            registry=registry,
        )


class CertificateMetrics:
    """What the server's certificate tells; only where the service has one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.expires = Gauge(
            "sensorlog_query_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, seconds since 1970.",
            registry=registry,
        )
        self.reloads = Counter(
            "sensorlog_query_certificate_reloads", "New certificates taken into use.", registry=registry
        )
        self.refused = Gauge(
            "sensorlog_query_certificate_refused",
            "1 while the files hold a certificate that cannot be used and the one before is served.",
            registry=registry,
        )


class PoolCollector(Collector):
    """The connection pool's numbers, read when Prometheus asks."""

    FAMILIES = (
        ("pool_size", "sensorlog_query_pool_connections", "Connections of the pool, in use or idle."),
        ("pool_available", "sensorlog_query_pool_connections_idle", "Connections nobody uses now."),
        ("pool_max", "sensorlog_query_pool_connections_limit", "Connections the pool may open."),
        ("requests_waiting", "sensorlog_query_pool_waiting", "Calls that wait for a connection."),
        ("requests_errors", "sensorlog_query_pool_timeouts", "Calls that waited in vain, since the start."),
        ("connections_lost", "sensorlog_query_pool_lost", "Connections found broken, since the start."),
    )

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one gauge for each number."""
        stats = self._pool.get_stats()
        for key, name, description in self.FAMILIES:
            yield GaugeMetricFamily(name, description, value=stats.get(key, 0))
