"""Around every method of the service: errors become status codes here, and calls are counted.

This is the only place that ends a call with an error. Whatever a method raises, the caller gets a code of `errors`,
never UNKNOWN.
"""

import time
from functools import partial
from types import TracebackType
from typing import NoReturn

import grpc

from sensorlog_query.errors import QueryError, mapped
from sensorlog_query.metrics import MethodMetrics, Metrics
from sensorlog_query.wrapping import Handler, LoggerInterceptor, wrapped

STATUS_DETAILS = "grpc-status-details-bin"


class Boundary(LoggerInterceptor):
    """Wraps the methods of the Logger service; reflection and health pass."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def around(self, method: str, handler: "Handler") -> "Handler":
        """Return the handler with its behaviour wrapped."""
        return wrapped(handler, partial(_Observed, MethodMetrics(self._metrics, method)))


class _Observed:
    """One call. A class because a generator costs several times as much, at every call."""

    __slots__ = ("_context", "_metrics", "_started")

    def __init__(self, metrics: MethodMetrics, context: grpc.ServicerContext) -> None:
        self._metrics = metrics
        self._context = context

    def __enter__(self) -> None:
        self._metrics.in_flight.inc()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        error = mapped(raised) if isinstance(raised, Exception) else None
        if error is not None:
            code = error.code
        else:  # gRPC drops a stream whose caller is gone
            code = grpc.StatusCode.CANCELLED if kind is GeneratorExit else grpc.StatusCode.OK
        self._metrics.ended(code, time.perf_counter() - self._started)
        if error is not None:
            _abort(self._context, error)


def _abort(context: grpc.ServicerContext, error: QueryError) -> NoReturn:
    # As context.abort_with_status does, but in the way that the OpenTelemetry interceptor records.
    status = error.status()
    context.set_trailing_metadata(((STATUS_DETAILS, status.SerializeToString()), *error.trailers()))
    context.abort(error.code, status.message)
