"""Replies that gRPC still holds, because their callers have not read them: they are load like calls at work.

gRPC takes a call for served when its thread has handed the reply over. A caller who goes on calling and does not read
would fill the memory, of which nobody else knows.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import grpc
import structlog

from sensorlog_query.errors import BusyError
from sensorlog_query.wrapping import Handler, LoggerInterceptor

log = structlog.get_logger()

CALL_BYTES = 16 * 1024
"""What a call takes beside its reply, about."""
COPIES = 2
"""How often a reply is in memory: as Python's bytes and as what gRPC sends."""
PATIENCE_SECONDS = 10.0
"""A reply that waits longer is given up when there are too many."""

UNREAD = "too many replies wait for their callers to read them; try again"


class _Reply(NamedTuple):
    context: grpc.ServicerContext
    size: int
    since: float


class Undelivered(LoggerInterceptor):
    """Turns calls with one reply away while undelivered ones take more than `limit` bytes of memory.

    It stands inside of the Boundary, and serializes what it counts. Streams have one message at a time.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._lock = threading.Lock()
        self._numbers = count()
        self._replies: dict[int, _Reply] = {}
        self._bytes = 0

    def around(self, method: str, handler: "Handler") -> "Handler":  # noqa: ARG002
        """Return the handler with its reply counted."""
        if handler is None or handler.unary_unary is None or not handler.response_serializer:
            return handler
        counted = partial(self._counted, handler.unary_unary, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(counted, handler.request_deserializer)

    def _counted(
        self,
        behaviour: Callable[..., Any],
        serialized: Callable[[Any], bytes],
        request: Any,
        context: grpc.ServicerContext,
    ) -> bytes:
        self._check()
        reply = behaviour(request, context)
        if not isinstance(reply, bytes):  # else the method has done it by itself
            reply = serialized(reply)
        self._hold(_Reply(context, CALL_BYTES + COPIES * len(reply), time.monotonic()))
        return reply

    def _check(self) -> None:
        if self._bytes <= self._limit:
            return
        with self._lock:
            earliest = time.monotonic() - PATIENCE_SECONDS
            forgotten = [reply.context for reply in self._replies.values() if reply.since < earliest]
        log.info("too many replies are unread", bytes=self._bytes, given_up=len(forgotten))
        for context in forgotten:
            context.cancel()
        raise BusyError(UNREAD)

    def _hold(self, reply: _Reply) -> None:
        with self._lock:
            number = next(self._numbers)
            self._replies[number] = reply
            self._bytes += reply.size
        if not reply.context.add_callback(partial(self._release, number)):
            self._release(number)

    def _release(self, number: int) -> None:
        with self._lock:
            if reply := self._replies.pop(number, None):
                self._bytes -= reply.size
