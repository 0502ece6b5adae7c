"""Methods of the Logger service with something around them: what the interceptors here have in common."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import grpc

from sensorlog.rpc import logger_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Logger"].full_name

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]
"""What to enter before the method's work and to leave after it, in the thread that does the work."""


class LoggerInterceptor(grpc.ServerInterceptor):
    """Gives the methods of the Logger service handlers of its own, made by `around`; all other services pass.

    gRPC asks at every call, with the same handler for the same method: what is made of it is made once.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[Handler, Handler]] = {}

    def around(self, method: str, handler: "Handler") -> "Handler":
        """Return what serves `method` of the Logger service, which `handler` would without this interceptor."""
        raise NotImplementedError

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler":
        """Return the handler of a call."""
        path, handler = handler_call_details.method, continuation(handler_call_details)
        if handler is None:  # there is no such method
            return None
        known, own = self._made.get(path, (None, None))
        if handler is known:
            return own
        service, _, method = path.lstrip("/").partition("/")
        if service != SERVICE:
            return handler
        own = self.around(method, handler)
        self._made[path] = handler, own
        return own


def wrapped(handler: "Handler", around: Around) -> "Handler":
    """Return the handler of one request (answered by one message or a stream) with `around` around its behaviour."""
    if handler is None:
        return None
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _stream(handler.unary_stream, around), handler.request_deserializer, handler.response_serializer
        )
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, around), handler.request_deserializer, handler.response_serializer
        )
    return handler


def _unary(behaviour: Callable[..., Any], around: Around) -> Callable[..., Any]:
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        with around(context):
            return behaviour(request, context)

    return guarded


def _stream(behaviour: Callable[..., Any], around: Around) -> Callable[..., Any]:
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with around(context):
            yield from behaviour(request, context)

    return guarded
