"""Who may read, as a real API server says: tokens of service accounts, audiences, roles, and its absence."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from sensorlog.rpc import logger_pb2 as pb
from support.apiserver import ApiServer, Object, running_api_server
from support.containers import ContainerEngine
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, query_service, refused, store
from support.waiting import wait_until

pytestmark = pytest.mark.integration

AUDIENCE = "plant-query.plants.svc"
REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
READ_DATA = [{"apiGroups": ["sensorlog.dev"], "resources": ["sensorlogpipelines/data"], "verbs": ["get"]}]
READ_RESOURCE = [{"apiGroups": ["sensorlog.dev"], "resources": ["sensorlogpipelines"], "verbs": ["get"]}]
CACHE_SECONDS = 1.0


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Yield an API server."""
    with running_api_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def pods(api_server: ApiServer) -> Object:
    """Return the account of the query pods, with no right but to review."""
    account = api_server.account("plants", "plant-query")
    api_server.grant(account, "reviewer", REVIEWS)
    return account


@pytest.fixture(scope="module")
def reader(api_server: ApiServer) -> Object:
    """Return an account that may read the data of pipelines in the namespace test."""
    account = api_server.account("test", "reader")
    api_server.grant(account, "data-reader", READ_DATA, namespace="test")
    return account


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    return pipeline


@pytest.fixture
def query(
    start_service: Any, pipeline: Pipeline, api_server: ApiServer, pods: Object, tmp_path: Path
) -> Iterator[QueryService]:
    """Yield a service that asks the API server; its own TLS is the matter of test_query_tls."""
    own = tmp_path / "serviceaccount"
    own.mkdir()
    (own / "token").write_text(api_server.token(pods))
    (own / "ca.crt").write_bytes(api_server.authority.certificate)
    settings: dict[str, Any] = {
        "SENSORLOG_AUTH": "kubernetes",
        "SENSORLOG_AUTH_AUDIENCE": AUDIENCE,
        "SENSORLOG_AUTH_API_SERVER": api_server.url,
        "SENSORLOG_AUTH_DIR": str(own),
        "SENSORLOG_AUTH_CACHE_SECONDS": str(CACHE_SECONDS),
    }
    with query_service(start_service, pipeline, **settings) as service:
        yield service


def read(query: QueryService, *authorization: str) -> int:
    """Return how many readings a caller with this metadata gets."""
    metadata = tuple(("authorization", value) for value in authorization)
    return len(query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=20, metadata=metadata).results)


def test_who_may_get_the_data_reads(query: QueryService, api_server: ApiServer, reader: Object) -> None:
    """Unary calls and streams."""
    bearer = f"Bearer {api_server.token(reader, AUDIENCE)}"
    assert read(query, bearer) == 1
    stream = query.stub.ExportSensorData(pb.ExportSensorDataReq(), timeout=20, metadata=(("authorization", bearer),))
    assert [len(message.ts) for message in stream] == [1]
    assert query.process.metric("sensorlog_query_requests_total", {"code": "OK"}) == 2


def test_a_token_for_another_audience_is_refused(query: QueryService, api_server: ApiServer, reader: Object) -> None:
    """Also one for the API server itself: it was not meant to be shown here."""
    for audiences in ((), ("another.svc",)):
        token = api_server.token(reader, *audiences)
        with refused(grpc.StatusCode.UNAUTHENTICATED, AUDIENCE):
            read(query, f"Bearer {token}")


def test_who_may_not_get_the_data_is_refused(query: QueryService, api_server: ApiServer, pipeline: Pipeline) -> None:
    """Seeing the resource is another right; so is reading the data in another namespace."""
    viewer = api_server.account("test", "viewer")
    api_server.grant(viewer, "viewer", READ_RESOURCE)
    api_server.account("elsewhere", "somebody")
    neighbour = api_server.account("elsewhere", "neighbour")
    api_server.grant(neighbour, "neighbour", READ_DATA, namespace="elsewhere")
    for account in (viewer, neighbour):
        token = api_server.token(account, AUDIENCE)
        with refused(grpc.StatusCode.PERMISSION_DENIED, f"{pipeline.config.namespace}/{pipeline.config.name}"):
            read(query, f"Bearer {token}")


@pytest.mark.parametrize("authorization", [(), ("Basic YTpi",), ("Bearer ",), ("Bearer nonsense",), ("Bearer a",) * 2])
def test_who_shows_no_token_is_refused(query: QueryService, authorization: tuple[str, ...]) -> None:
    """Or one that the cluster does not know, or two."""
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        read(query, *authorization)
    assert query.process.metric("sensorlog_query_requests_total", {"code": "UNAUTHENTICATED"}) == 1


def test_health_and_reflection_stay_open(query: QueryService) -> None:
    """Probes and balancers have no token, and the contract is no secret."""
    stub: Any = health_pb2_grpc.HealthStub(query.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert "logger.service.v1.Logger" in ProtoReflectionDescriptorDatabase(query.channel).get_services()


def test_a_right_taken_away_ends_within_seconds(query: QueryService, api_server: ApiServer) -> None:
    """A verdict holds no longer than the cache says."""
    leaver = api_server.account("test", "leaver")
    api_server.grant(leaver, "leaver", READ_DATA, namespace="test")
    bearer = f"Bearer {api_server.token(leaver, AUDIENCE)}"
    assert read(query, bearer) == 1
    api_server.call("DELETE", "/apis/rbac.authorization.k8s.io/v1/namespaces/test/rolebindings/leaver")
    wait_until(lambda: _code(query, bearer), lambda c: c == "PERMISSION_DENIED", deadline=15, what="the refusal")


def _code(query: QueryService, bearer: str) -> str:
    try:
        read(query, bearer)
    except grpc.RpcError as e:
        return str(e.code().name)
    return "OK"


def test_nobody_reads_while_the_api_server_is_away(query: QueryService, api_server: ApiServer, reader: Object) -> None:
    """Frozen: it takes connections and does not answer. Not open, not for long, and by itself again."""
    bearer = f"Bearer {api_server.token(reader, AUDIENCE)}"
    with api_server.frozen(), refused(grpc.StatusCode.UNAVAILABLE, "API server"):
        read(query, bearer)
    assert read(query, bearer) == 1
