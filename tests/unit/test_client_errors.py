"""Every way a call can end becomes an error of the client's own tree."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from sensorlog.client import (
    AccessError,
    CallError,
    Client,
    DeadlineError,
    InvalidRequestError,
    LimitError,
    MissingExtraError,
    Retries,
    SensorLogError,
    ServiceError,
    StaleError,
    UnavailableError,
    UnsupportedError,
)
from sensorlog.client.channel import SERVICE
from sensorlog.client.extras import require

KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitError,
    grpc.StatusCode.FAILED_PRECONDITION: StaleError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
}


class FailingLogger:
    """A server whose calls end as it is told."""

    def __init__(self, server: grpc.Server) -> None:
        self.code = grpc.StatusCode.INTERNAL
        self.trailing: tuple[tuple[str, str | bytes], ...] = ()
        self.calls = 0
        methods: dict[str, grpc.RpcMethodHandler[bytes, Any]] = {
            "GetLatestSensorData": grpc.unary_unary_rpc_method_handler(self._end),
            "ExportSensorData": grpc.unary_stream_rpc_method_handler(self._end),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def _end(self, request: bytes, context: grpc.ServicerContext) -> None:  # noqa: ARG002
        self.calls += 1
        context.set_trailing_metadata(self.trailing)
        context.abort(self.code, "what the\nserver said")


@pytest.fixture
def failing() -> Iterator[tuple[FailingLogger, Client]]:
    """Serve calls that fail; yield the server's logic and a client of it that does not retry."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    logger = FailingLogger(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}", retries=Retries(attempts=1)) as client:
        yield logger, client
    server.stop(None).wait()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_no_error_of_grpc_escapes(failing: tuple[FailingLogger, Client], code: grpc.StatusCode) -> None:
    """Neither from a call with one reply nor from a stream; the message is one line."""
    logger, client = failing
    logger.code = code
    for call in (client.latest, client.export().to_numpy):
        with pytest.raises(SensorLogError) as caught:
            call()
        assert type(caught.value) is KINDS.get(code, ServiceError)
        assert caught.value.code is code
        assert str(caught.value) == f"{code.name}: what the server said"
    assert logger.calls == 2


def test_a_refusal_names_the_field(failing: tuple[FailingLogger, Client]) -> None:
    """As google.rpc.BadRequest has it."""
    logger, client = failing
    detail = AnyMessage()
    detail.Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field="sensor_ids", description="too many")]))
    status = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], details=[detail])
    logger.code = grpc.StatusCode.INVALID_ARGUMENT
    logger.trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    with pytest.raises(InvalidRequestError) as caught:
        client.latest()
    assert caught.value.field == "sensor_ids"


@pytest.mark.parametrize(("pushback", "seconds"), [("1500", 1.5), ("-1", None), ("soon", None), (None, None)])
def test_a_limit_says_when_to_come_back(
    failing: tuple[FailingLogger, Client], pushback: str | None, seconds: float | None
) -> None:
    """In seconds; None where the service says nothing, or that trying again is of no use."""
    logger, client = failing
    logger.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    logger.trailing = (("grpc-retry-pushback-ms", pushback),) if pushback else ()
    with pytest.raises(LimitError) as caught:
        client.latest()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(("staleness", "seconds"), [("5250", 5.25), ("0", 0.0), ("soon", None), ("", None)])
def test_a_replica_that_is_too_old_says_how_old(
    failing: tuple[FailingLogger, Client], staleness: str, seconds: float | None
) -> None:
    """In seconds, as everything here."""
    logger, client = failing
    logger.code = grpc.StatusCode.FAILED_PRECONDITION
    logger.trailing = (("staleness-ms", staleness),) if staleness else ()
    with pytest.raises(StaleError) as caught:
        client.latest()
    assert caught.value.staleness == seconds


def test_every_error_of_a_call_is_one_of_the_tree() -> None:
    """So that one `except` catches all."""
    assert all(issubclass(kind, CallError) for kind in (*KINDS.values(), ServiceError))
    assert issubclass(CallError, SensorLogError)


def test_a_missing_library_is_named_with_its_extra() -> None:
    """As an ImportError too, for those who look for one."""
    with pytest.raises(MissingExtraError, match=r"no_such_library .* pip install 'sensorlog\[arrow\]'") as caught:
        require("no_such_library", "arrow")
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("module", "statement", "extra"),
    [
        ("numpy", "import sensorlog.client", "client"),
        ("google.rpc", "import sensorlog.client", "client"),
        ("pyarrow", "from sensorlog.client import Client; Client('x:1').export().to_arrow()", "arrow"),
        ("pyarrow", "from sensorlog.client import Client; Client('x:1').export().record_batches()", "arrow"),
        ("pandas", "from sensorlog.client import Client; Client('x:1').export().to_pandas()", "pandas"),
    ],
)
def test_what_needs_an_extra_says_which(module: str, statement: str, extra: str) -> None:
    """Before anything is asked of a service."""
    code = f"import sys; sys.modules[{module!r}] = None; {statement}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"sensorlog[{extra}]" in result.stderr.splitlines()[-1]


def test_the_client_needs_neither_pyarrow_nor_pandas() -> None:
    """Images and scripts that only ask do not carry them."""
    code = "import sys, sensorlog.client; print([m for m in ('pyarrow', 'pandas') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
