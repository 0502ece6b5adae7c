"""What gRPC retries by itself, which addresses it uses, and how the two ends know each other."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from sensorlog.client import Client, DeadlineError, LimitError, Reading, Retries, Tls, UnavailableError
from sensorlog.client.channel import SERVICE, TRIED_AGAIN, resolved_by, service_config
from sensorlog.rpc import logger_pb2 as pb

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
QUICK = Retries(attempts=4, first_pause=0.05, longest_pause=0.2)
READING = pb.SensorData(ts=1646409307, sensor_id=1, temperature=30, measurements={"humidity": 0.5})


class Scripted:
    """A server whose calls end one after another as a script says."""

    def __init__(self) -> None:
        self.script: list[tuple[grpc.StatusCode, str | None]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        answers: grpc.RpcMethodHandler[bytes, pb.GetLatestSensorDataReply] = grpc.unary_unary_rpc_method_handler(
            self._answer, response_serializer=pb.GetLatestSensorDataReply.SerializeToString
        )
        handlers = {"GetLatestSensorData": answers}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return len(self.metadata)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> pb.GetLatestSensorDataReply:  # noqa: ARG002
        self.metadata.append(dict(context.invocation_metadata()))
        code, pushback = self.script.pop(0) if self.script else (OK, None)
        if pushback is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
        if code is not OK:
            context.abort(code, "as the script says")
        return pb.GetLatestSensorDataReply(results=[READING])


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Return a server that is started by the test's choice of port."""
    server = Scripted()
    yield server
    server.server.stop(None).wait()


@pytest.fixture
def connect(scripted: Scripted) -> Callable[..., Client]:
    """Serve in plain text; return a function that makes clients."""
    port = scripted.server.add_insecure_port("127.0.0.1:0")
    scripted.server.start()
    return lambda **options: Client(f"127.0.0.1:{port}", **options)


@pytest.mark.parametrize("code", TRIED_AGAIN)
def test_who_is_away_or_stops_is_asked_again(scripted: Scripted, connect: Callable[..., Client], code: str) -> None:
    """The caller sees the answer."""
    scripted.script = [(grpc.StatusCode[code], None)] * 3
    with connect(retries=QUICK) as client:
        assert client.latest() == [Reading(1646409307, 1, {"temperature": 30.0, "humidity": 0.5})]
    assert scripted.calls == 4


def test_retries_end(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """After as many attempts as were asked for."""
    scripted.script = [(UNAVAILABLE, None)] * 9
    with connect(retries=QUICK) as client, pytest.raises(UnavailableError):
        client.latest()
    assert scripted.calls == 4
    with connect(retries=Retries(attempts=1)) as client, pytest.raises(UnavailableError):
        client.latest()
    assert scripted.calls == 5


def test_the_timeout_counts_for_all_attempts_together(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """A pause does not outlast it."""
    scripted.script = [(UNAVAILABLE, None)] * 9
    began = time.monotonic()
    with connect(retries=Retries(first_pause=5.0), timeout=0.5) as client, pytest.raises(DeadlineError):
        client.latest()
    assert time.monotonic() - began < 3


def test_a_limit_is_told_at_once(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """Trying again would make it worse; when to come back is in the error."""
    scripted.script = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "250")]
    with connect(retries=QUICK) as client, pytest.raises(LimitError) as caught:
        client.latest()
    assert caught.value.retry_after == 0.25
    assert scripted.calls == 1


def test_a_service_that_asks_not_to_be_retried_is_not(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """A negative pushback."""
    scripted.script = [(UNAVAILABLE, "-1")]
    with connect(retries=QUICK) as client, pytest.raises(UnavailableError):
        client.latest()
    assert scripted.calls == 1


def test_a_service_that_says_when_is_obeyed(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """Instead of the client's own pause."""
    scripted.script = [(UNAVAILABLE, "600")]
    began = time.monotonic()
    with connect(retries=QUICK) as client:
        client.latest()
    assert time.monotonic() - began > 0.5
    assert scripted.calls == 2


def test_metadata_goes_with_every_call(scripted: Scripted, connect: Callable[..., Client]) -> None:
    """A token of a gateway, for example."""
    with connect(metadata=[("authorization", "Bearer x")]) as client:
        client.latest()
    assert scripted.metadata[0]["authorization"] == "Bearer x"


@pytest.mark.parametrize("attempts", [0, 6])
def test_attempts_that_grpc_would_not_make_are_refused(attempts: int) -> None:
    """It would cap them in silence."""
    with pytest.raises(ValueError, match="between 1 and 5"):
        Retries(attempts=attempts)


def test_all_addresses_are_used_in_turn() -> None:
    """And every method is retried, for all of them only read."""
    config = json.loads(json.dumps(service_config(Retries())))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["methodConfig"][0]["name"] == [{"service": "logger.service.v1.Logger"}]
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == list(TRIED_AGAIN)
    assert "retryPolicy" not in service_config(Retries(attempts=1))["methodConfig"][0]


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("plant-query.sensors.svc:50051", "dns:///plant-query.sensors.svc:50051"),
        ("localhost:50051", "dns:///localhost:50051"),
        ("[::1]:50051", "dns:///[::1]:50051"),
        ("dns:///a:1", "dns:///a:1"),
        ("dns://10.0.0.10/a:1", "dns://10.0.0.10/a:1"),
        ("unix:/run/query.sock", "unix:/run/query.sock"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
    ],
)
def test_names_are_resolved_by_dns_unless_they_say_otherwise(target: str, resolved: str) -> None:
    """A host's name is not taken for a scheme."""
    assert resolved_by(target) == resolved


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate for the name query.test, which is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key, cert = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=query.test", "-addext", "subjectAltName=DNS:query.test", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(scripted: Scripted, certificate: tuple[Path, Path], *, mutual: bool) -> None:
    """The service is known by its certificate, and where it asks for one, so is the client; else nothing is said."""
    cert, key = certificate
    pem = cert.read_bytes()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), pem)], pem if mutual else None, mutual)
    port = scripted.server.add_secure_port("127.0.0.1:0", credentials)
    scripted.server.start()
    once = Retries(attempts=1)
    own = {"certificate_file": cert, "key_file": key} if mutual else {}
    known = Tls(ca_file=cert, server_name="query.test", **own)
    with Client(f"127.0.0.1:{port}", tls=known, retries=once) as client:
        assert len(client.latest()) == 1
    strangers = [None, Tls(), Tls(ca_file=cert)] + ([Tls(ca_file=cert, server_name="query.test")] if mutual else [])
    for stranger in strangers:
        with Client(f"127.0.0.1:{port}", tls=stranger, retries=once) as client, pytest.raises(UnavailableError):
            client.latest()
    assert scripted.calls == 1


def test_credentials_in_two_ways_are_refused() -> None:
    """One of them would be ignored."""
    with pytest.raises(ValueError, match="give one of them"):
        Client("localhost:1", tls=Tls(), credentials=grpc.ssl_channel_credentials())
