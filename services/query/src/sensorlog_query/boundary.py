"""Around every method of the service: errors become status codes here, and calls are counted.

This is the only place that ends a call with an error. Whatever a method raises, the caller gets a code of `errors`,
never UNKNOWN.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

import grpc

from sensorlog_query.errors import QueryError, mapped
from sensorlog_query.metrics import Metrics
from sensorlog_query.wrapping import Handler, LoggerInterceptor, wrapped

STATUS_DETAILS = "grpc-status-details-bin"


class Boundary(LoggerInterceptor):
    """Wraps the methods of the Logger service; reflection and health pass."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def around(self, method: str, handler: "Handler") -> "Handler":
        """Return the handler with its behaviour wrapped."""
        return wrapped(handler, partial(self._observed, method))

    @contextmanager
    def _observed(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        code = grpc.StatusCode.OK
        started = time.perf_counter()
        with self._metrics.in_flight.labels(method).track_inprogress():
            try:
                yield
            except GeneratorExit:  # gRPC drops a stream whose caller is gone
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as e:  # noqa: BLE001 -- the boundary
                error = mapped(e)
                code = error.code
                _abort(context, error)
            finally:
                self._metrics.requests.labels(method, code.name).inc()
                self._metrics.seconds.labels(method).observe(time.perf_counter() - started)


def _abort(context: grpc.ServicerContext, error: QueryError) -> NoReturn:
    # As context.abort_with_status does, but in the way that the OpenTelemetry interceptor records.
    status = error.status()
    context.set_trailing_metadata(((STATUS_DETAILS, status.SerializeToString()), *error.trailers()))
    context.abort(error.code, status.message)
