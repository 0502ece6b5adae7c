"""The query service over TLS: a certificate that is renewed under it, and clients that must show theirs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.containers import free_port
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess
from support.query import refused, store
from support.tls import Authority, Issued, MountedSecret
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

CALL_SECONDS = 10
EXPIRY = "sensorlog_query_certificate_expiry_timestamp_seconds"
REFUSED = "sensorlog_query_certificate_refused"
RELOADS = "sensorlog_query_certificate_reloads_total"


class Secured:
    """A service over TLS, the Secret it mounts and the authority that signed it."""

    def __init__(self, process: ServiceProcess, port: int, secret: MountedSecret, authority: Authority) -> None:
        self.process = process
        self.target = f"127.0.0.1:{port}"
        self.secret = secret
        self.authority = authority

    @contextmanager
    def stub(self, *, trust: Authority | None = None, client: Issued | None = None) -> Iterator[LoggerStub]:
        """Yield a stub over a connection of its own."""
        roots = (trust or self.authority).certificate
        credentials = grpc.ssl_channel_credentials(
            roots, client.key if client else None, client.certificate if client else None
        )
        options = [("grpc.use_local_subchannel_pool", 1)]  # else a channel shares the connection of one before
        with grpc.secure_channel(self.target, credentials, options) as channel:
            yield LoggerStub(channel)

    def read(self, **options: Any) -> int:
        """Return how many readings a new connection gets."""
        with self.stub(**options) as stub:
            return len(stub.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS).results)


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    return pipeline


@pytest.fixture
def start_secured(start_service: Any, pipeline: Pipeline, tmp_path: Path) -> Callable[..., Secured]:
    """Return a function that starts a service over TLS."""

    def start(**settings: str) -> Secured:
        authority, port = Authority(), free_port()
        issued = authority.issue()
        secret = MountedSecret(
            tmp_path / "tls", tls_crt=issued.certificate, tls_key=issued.key, ca_crt=authority.certificate
        )
        process = start_service(
            "sensorlog_query",
            pipeline,
            SENSORLOG_GRPC_PORT=str(port),
            SENSORLOG_TLS_DIR=str(secret.directory),
            **settings,
        )
        process.wait_ready()
        return Secured(process, port, secret, authority)

    return start


def test_a_client_that_trusts_the_authority_reads(start_secured: Callable[..., Secured]) -> None:
    """Over TLS, and not without it or with another authority."""
    service = start_secured()
    assert service.read() == 1
    with refused(grpc.StatusCode.UNAVAILABLE):
        service.read(trust=Authority("a stranger"))
    with grpc.insecure_channel(service.target) as channel, refused(grpc.StatusCode.UNAVAILABLE):
        LoggerStub(channel).ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS)


def test_a_rotated_certificate_is_served_to_the_next_connection(start_secured: Callable[..., Secured]) -> None:
    """A connection from before goes on meanwhile; the process is the same; the new expiry is told."""
    service = start_secured()
    old, successor = service.authority, Authority("the next authority")
    issued = successor.issue(lifetime=timedelta(hours=9))
    with service.stub() as from_before:
        assert len(from_before.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS).results) == 1
        service.secret.update(tls_crt=issued.certificate, tls_key=issued.key)
        assert service.read(trust=successor) == 1
        with refused(grpc.StatusCode.UNAVAILABLE):
            service.read(trust=old)
        assert len(from_before.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS).results) == 1
    assert service.process.is_running
    assert service.process.metric(RELOADS) == 1
    assert service.process.metric(EXPIRY) == _expiry(issued)
    assert service.process.metric(EXPIRY) > datetime.now(UTC).timestamp() + 8 * 3600


def _expiry(issued: Issued) -> float:
    return x509.load_pem_x509_certificate(issued.certificate).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("broken", ["key of another", "no certificate", "gone"])
def test_a_broken_certificate_leaves_the_one_before(start_secured: Callable[..., Secured], broken: str) -> None:
    """It is logged and told as a metric without anybody connecting; a good one ends that."""
    service = start_secured()
    new, other = service.authority.issue(), service.authority.issue()
    before = service.process.metric(EXPIRY)
    match broken:
        case "key of another":
            service.secret.update(tls_crt=new.certificate, tls_key=other.key)
        case "no certificate":
            service.secret.update(tls_crt=b"hello", tls_key=new.key)
        case "gone":
            service.secret.update()
    wait_for_value(lambda: service.process.metric(REFUSED), 1.0, deadline=20, what="the metric")
    assert service.read() == 1
    assert service.process.metric(EXPIRY) == before
    assert service.process.logs.count("the new certificate cannot be used") == 1
    service.secret.update(tls_crt=new.certificate, tls_key=new.key)
    wait_for_value(lambda: service.process.metric(REFUSED), 0.0, deadline=20, what="the metric")
    assert service.read() == 1
    assert service.process.metric(RELOADS) == 1


def test_a_client_without_a_certificate_is_refused_where_it_must_show_one(
    start_secured: Callable[..., Secured],
) -> None:
    """So is one whose certificate another authority signed; one of ours reads."""
    service = start_secured(SENSORLOG_TLS_CLIENT_AUTH="require")
    assert service.read(client=service.authority.issue("client")) == 1
    with refused(grpc.StatusCode.UNAVAILABLE):
        service.read()
    with refused(grpc.StatusCode.UNAVAILABLE):
        service.read(client=Authority("a stranger").issue("client"))


def test_a_rotated_authority_of_clients_counts_from_then_on(start_secured: Callable[..., Secured]) -> None:
    """Clients of the authority before are turned away at their next connection."""
    service = start_secured(SENSORLOG_TLS_CLIENT_AUTH="require")
    old_client = service.authority.issue("client")
    successor, server = Authority("the next authority"), service.authority.issue()
    service.secret.update(tls_crt=server.certificate, tls_key=server.key, ca_crt=successor.certificate)
    assert service.read(client=successor.issue("client")) == 1
    with refused(grpc.StatusCode.UNAVAILABLE):
        service.read(client=old_client)


def test_every_process_of_a_service_follows_the_files(start_secured: Callable[..., Secured]) -> None:
    """Each has the port and its own certificate."""
    service = start_secured(SENSORLOG_PROCESSES="2")
    successor = Authority("the next authority")
    issued = successor.issue()
    service.secret.update(tls_crt=issued.certificate, tls_key=issued.key)
    wait_until(lambda: service.process.metric(RELOADS) == 2, deadline=20, what="both processes to reload")
    assert [service.read(trust=successor) for _ in range(8)] == [1] * 8


def test_a_first_certificate_that_cannot_be_used_ends_the_process_with_2(
    start_service: Any, pipeline: Pipeline, tmp_path: Path
) -> None:
    """There is none before it to keep; the line says which file is wrong."""
    authority = Authority()
    secret = MountedSecret(tmp_path / "tls", tls_crt=authority.issue().certificate, tls_key=authority.issue().key)
    process = start_service("sensorlog_query", pipeline, SENSORLOG_TLS_DIR=str(secret.directory))
    assert process.process.wait(30) == 2
    assert "tls.key is not the key of the certificate in tls.crt" in process.logs
