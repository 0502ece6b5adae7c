"""Whatever a method raises, the caller gets a status code, and the call is counted under it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc import logger_pb2_grpc
from sensorlog_query.boundary import Boundary
from sensorlog_query.errors import InvalidArgumentError, LimitError
from sensorlog_query.metrics import Metrics


class Faulty(logger_pb2_grpc.LoggerServicer):
    """Has two methods, which raise `error`; the stream does so after one message."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def ListSensor(self, request: Any, context: Any) -> pb.ListSensorReply:  # noqa: ARG002, N802
        """Raise, or answer with nothing."""
        if self._error:
            raise self._error
        return pb.ListSensorReply()

    def ExportSensorData(self, request: Any, context: Any) -> Iterator[pb.ExportSensorDataReply]:  # noqa: ARG002, N802
        """Answer once, then raise."""
        yield pb.ExportSensorDataReply()
        if self._error:
            raise self._error


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry of the test's own."""
    return CollectorRegistry()


@contextmanager
def serving(error: Exception | None, registry: CollectorRegistry) -> Iterator[logger_pb2_grpc.LoggerStub]:
    """Yield a stub of a real server whose methods raise `error`."""
    servicer = Faulty(error)  # type: ignore[abstract]  # two methods are enough
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, interceptors=[Boundary(Metrics(registry))])
        logger_pb2_grpc.add_LoggerServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield logger_pb2_grpc.LoggerStub(channel)
        server.stop(0).wait()


def _requests(registry: CollectorRegistry, method: str, code: str) -> float | None:
    return registry.get_sample_value("sensorlog_query_requests_total", {"method": method, "code": code})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgumentError("page", "must be at least 1"), grpc.StatusCode.INVALID_ARGUMENT),
        (LimitError("too much"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ZeroDivisionError("a fault of ours"), grpc.StatusCode.INTERNAL),
    ],
)
def test_an_error_ends_a_call_with_its_code(
    error: Exception, code: grpc.StatusCode, registry: CollectorRegistry
) -> None:
    """In a unary call and in the middle of a stream alike, and never UNKNOWN."""
    with serving(error, registry) as stub:
        with pytest.raises(grpc.RpcError) as unary:
            stub.ListSensor(pb.ListSensorReq())
        with pytest.raises(grpc.RpcError) as stream:
            list(stub.ExportSensorData(pb.ExportSensorDataReq()))
    assert unary.value.code() == stream.value.code() == code
    assert "a fault of ours" not in str(unary.value.details())
    assert _requests(registry, "ListSensor", code.name) == 1
    assert _requests(registry, "ExportSensorData", code.name) == 1


def test_a_refused_field_arrives_as_a_detail(registry: CollectorRegistry) -> None:
    """Programs find google.rpc.BadRequest where grpcio-status looks for it."""
    with serving(InvalidArgumentError("page", "must be at least 1"), registry) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListSensor(pb.ListSensorReq())
        status = rpc_status.from_call(cast("grpc.Call", caught.value))
    assert status is not None
    assert status.details[0].TypeName() == "google.rpc.BadRequest"


def test_calls_are_counted_and_timed(registry: CollectorRegistry) -> None:
    """Nothing stays in flight."""
    with serving(None, registry) as stub:
        stub.ListSensor(pb.ListSensorReq())
        list(stub.ExportSensorData(pb.ExportSensorDataReq()))
    for method in ("ListSensor", "ExportSensorData"):
        assert _requests(registry, method, "OK") == 1
        labels = {"method": method}
        assert registry.get_sample_value("sensorlog_query_request_seconds_count", labels) == 1
        assert registry.get_sample_value("sensorlog_query_requests_in_flight", labels) == 0
