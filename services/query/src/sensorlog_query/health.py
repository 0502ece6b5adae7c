"""The health service, grpc.health.v1: clients with a `healthCheckConfig` choose among pods by it, and tools ask it.

Not that of grpc-health-checking. It sends while it holds a lock, which gRPC's one thread of events wants when a watch
ends, and this thread is who completes the sending: a caller who leaves at that moment stops the whole server for good.
Here nothing is held that this thread wants while something is sent, and only changes are sent.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

SERVICE_NAME = DESCRIPTOR.services_by_name["Health"].full_name

Status = int
"""A HealthCheckResponse.ServingStatus."""
Send = Callable[[HealthCheckResponse], object]

THREADS = 4
"""At work at once: a check or a message each, none for as long as a watch lasts."""

GOODBYE_SECONDS = 1.0
"""How long watchers may take to hear that the server stops."""


class Watcher:
    """One who is told of changes of a service's health by `send`."""

    def __init__(self, send: Send, status: Callable[[], Status]) -> None:
        self._send = send
        self._status = status
        self._turn = threading.Lock()
        self._told: Status | None = None

    def tell(self) -> None:
        """Send the status that there is now, unless that was the last one sent."""
        with self._turn:  # so that the last who sends has looked last
            status = self._status()
            if status != self._told:
                self._told = status
                self._send(HealthCheckResponse(status=status))


class Health:
    """Tells the health of `services`, which is NOT_SERVING at first and after `stop`."""

    def __init__(self, services: Sequence[str]) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="health")
        self._lock = threading.Lock()
        self._services = services
        self._status: Status = HealthCheckResponse.NOT_SERVING
        self._watchers: set[Watcher] = set()
        self._is_stopped = False

    def add_to(self, server: grpc.Server) -> None:
        """Serve the methods of the health service."""
        check: Any = partial(self._check)
        watch: Any = partial(self._watch)
        # gRPC looks for these attributes, as those of its own health service.
        check.experimental_thread_pool = watch.experimental_thread_pool = self._pool
        watch.experimental_non_blocking = True
        codecs = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(check, *codecs),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, *codecs),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, methods)])

    def set(self, *, serving: bool) -> None:
        """Say whether calls can be answered; nobody waits until watchers have heard it."""
        with self._lock:
            if not self._is_stopped:
                self._change(HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    def stop(self) -> None:
        """Say for good that calls cannot be answered, and give watchers a moment to hear it."""
        with self._lock:
            self._is_stopped = True
            told = self._change(HealthCheckResponse.NOT_SERVING)
        wait(told, GOODBYE_SECONDS)

    def _change(self, status: Status) -> list["Future[None]"]:
        if status == self._status:
            return []
        self._status = status
        return [self._pool.submit(watcher.tell) for watcher in self._watchers]

    def _status_of(self, service: str) -> Status:
        return self._status if service in self._services else HealthCheckResponse.SERVICE_UNKNOWN

    def _check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service not in self._services:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"unknown service; known are {', '.join(filter(None, self._services))}"
            )
        return HealthCheckResponse(status=self._status)

    def _watch(
        self, request: HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Send | None = None
    ) -> Iterator[HealthCheckResponse] | None:
        """Begin to tell; the messages of those who come by an interceptor that hides the attributes are yielded."""
        messages: SimpleQueue[HealthCheckResponse | None] = SimpleQueue()
        watcher = Watcher(send_response_callback or messages.put, partial(self._status_of, request.service))
        with self._lock:
            self._watchers.add(watcher)

        def forget() -> None:
            with self._lock:
                self._watchers.discard(watcher)
            messages.put(None)

        if not context.add_callback(forget):
            forget()
        watcher.tell()
        return None if send_response_callback else iter(messages.get, None)
