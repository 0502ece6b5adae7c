"""Threads of their own for watches: a watch takes one for as long as it goes on, and calls must not wait for it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from sensorlog_query.wrapping import Handler, LoggerInterceptor

METHOD = "WatchSensorData"

SPARE = 2
"""Threads above the limit of watches, so that those above the limit hear of it at once."""


class WatchThreads(LoggerInterceptor):
    """Has gRPC run watches on up to `watches` threads. To be the outermost interceptor."""

    def __init__(self, watches: int) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(watches + SPARE, thread_name_prefix="watch")

    def around(self, method: str, handler: "Handler") -> "Handler":
        """Return the handler, which for a watch says where it runs."""
        if handler is None or handler.unary_stream is None or method != METHOD:
            return handler
        behaviour: Any = partial(handler.unary_stream)
        # gRPC looks for this attribute, as its own health service does it.
        behaviour.experimental_thread_pool = self._pool
        return grpc.unary_stream_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )


def call_threads(workers: int, watches: int) -> int:
    """Return how many threads serve calls: `workers`, and those of watches where they cannot have their own.

    opentelemetry-instrument puts itself around grpc.server, and its interceptor around this one.
    """
    is_wrapped = grpc.server.__module__ != grpc.__name__
    return workers + watches if is_wrapped else workers
