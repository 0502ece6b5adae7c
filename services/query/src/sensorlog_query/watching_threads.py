"""Threads of their own for watches: a watch takes one for as long as it goes on, and calls must not wait for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from sensorlog_query.wrapping import Handler

METHOD = "/logger.service.v1.Logger/WatchSensorData"

SPARE = 2
"""Threads above the limit of watches, so that those above the limit hear of it at once."""


class WatchThreads(grpc.ServerInterceptor):
    """Has gRPC run watches on up to `watches` threads. To be the outermost interceptor."""

    def __init__(self, watches: int) -> None:
        self._pool = ThreadPoolExecutor(watches + SPARE, thread_name_prefix="watch")

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler":
        """Return the handler, which for a watch says where it runs."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_stream is None or handler_call_details.method != METHOD:
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
