"""Running something around a method, whatever its shape: what the interceptors here have in common."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]
"""What to enter before the method's work and to leave after it, in the thread that does the work."""


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
