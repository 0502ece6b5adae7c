"""The health service over a real channel: changes are told once each, to whoever still listens."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from sensorlog_query.health import Health

NAMES = ("", "plant.Logger")
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SECONDS = 10


class Wrapping(grpc.ServerInterceptor):
    """Puts a function around each method's behaviour, as tracing does, in which gRPC finds no attributes."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call."""
        handler = continuation(handler_call_details)
        codecs = handler.request_deserializer, handler.response_serializer
        if handler.unary_stream is None:
            return grpc.unary_unary_rpc_method_handler(handler.unary_unary.__call__, *codecs)
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream.__call__, *codecs)


@contextmanager
def served(*interceptors: grpc.ServerInterceptor) -> Iterator[tuple[Health, Any]]:
    """Yield a health service and a stub that asks it."""
    health = Health(NAMES)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, interceptors=list(interceptors))
        health.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health, HealthStub(channel)
        server.stop(0).wait()


@pytest.fixture(params=[(), (Wrapping(),)], ids=["plain", "wrapped"])
def health_and_stub(request: pytest.FixtureRequest) -> Iterator[tuple[Health, Any]]:
    """Return them, also with an interceptor that hides from gRPC how the methods want to be called."""
    with served(*request.param) as both:
        yield both


@pytest.mark.parametrize("name", NAMES)
def test_watch_hears_each_change_once(health_and_stub: tuple[Health, Any], name: str) -> None:
    """First what is now, then what becomes of it, however often it is said; in the end that it is over."""
    health, stub = health_and_stub
    watch = stub.Watch(HealthCheckRequest(service=name), timeout=SECONDS)
    heard = [next(watch).status]
    for serving in (True, False, True):
        for _ in range(3):
            health.set(serving=serving)
        assert stub.Check(HealthCheckRequest(service=name)).status == (SERVING if serving else NOT_SERVING)
        heard.append(next(watch).status)
    health.stop()
    health.set(serving=True)
    heard.append(next(watch).status)
    assert heard == [NOT_SERVING, SERVING, NOT_SERVING, SERVING, NOT_SERVING]
    watch.cancel()


def test_unknown_service_is_told_as_such(health_and_stub: tuple[Health, Any]) -> None:
    """By a check as an error, by a watch as a status: it could come to be."""
    _, stub = health_and_stub
    watch = stub.Watch(HealthCheckRequest(service="nobody"), timeout=SECONDS)
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
