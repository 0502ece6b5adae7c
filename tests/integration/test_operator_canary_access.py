"""Canaries where the query service asks who calls: tokens of a real API server with the chart's rights, and TLS."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from kubernetes import client, config

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog_operator.canary_probe import ClientCertificate, Endpoint, Outcome, Probe, Route, Tls
from sensorlog_operator.canary_tokens import LIFETIME_SECONDS, RENEWED_AFTER, Tokens
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.kube import Kube
from support.apiserver import ApiServer, Object
from support.canaries import KEY, a_probe
from support.containers import free_port
from support.operated import CANARY_ACCOUNT, NAMESPACE, USER, kubeconfig
from support.pipelines import Pipeline
from support.processes import ServiceProcess, StartService
from support.query import refused
from support.tls import Authority, MountedSecret
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

AUDIENCE = "plant-query.test.svc"
JWT = "eyJ"
"""What every token begins with: `{"` in base64."""

REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
ACCOUNT_PATH = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{CANARY_ACCOUNT}"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
RULES_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
OF_EVERYBODY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}


class Clock:
    """Seconds that go on as they do, and by leaps."""

    def __init__(self) -> None:
        self.leaps = 0.0

    def __call__(self) -> float:
        """Return what time it is."""
        return time.monotonic() + self.leaps


@pytest.fixture(scope="module")
def reviewer(api_server: ApiServer) -> Object:
    """Return the account of the query pods."""
    account = api_server.account("test", "plant-query")
    api_server.grant(account, "reviewer", REVIEWS)
    return account


@pytest.fixture(scope="module")
def kube(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Kube:
    """Return the API as the operator's account sees it."""
    path = kubeconfig(api_server, tmp_path_factory.mktemp("operator") / "kubeconfig")
    configuration = client.Configuration()
    config.load_kube_config(str(path), client_configuration=configuration)
    return Kube(client.ApiClient(configuration))


@pytest.fixture
def clock() -> Clock:
    """Return what tokens are renewed by."""
    return Clock()


@pytest.fixture
def tokens(kube: Kube, clock: Clock) -> Tokens:
    """Return the tokens of the account for canaries."""
    return Tokens(kube, NAMESPACE, CANARY_ACCOUNT, clock=clock)


@pytest.fixture
def probe(tokens: Tokens) -> Iterator[Probe]:
    """Return what sends canaries and looks for them."""
    with a_probe(tokens) as probe:
        yield probe


@dataclass(frozen=True)
class Secured:
    """A query service over TLS."""

    target: str
    authority: Authority
    process: ServiceProcess

    def endpoint(self, *, audience: str | None = None, client: ClientCertificate | None = None) -> Endpoint:
        """Return how to call it."""
        return Endpoint(self.target, Tls(self.authority.certificate, client), audience)


@pytest.fixture
def start_query(start_service: StartService, pipeline: Pipeline, tmp_path: Path) -> Callable[..., Secured]:
    """Return a function that starts one."""

    def start(**settings: str) -> Secured:
        authority, port = Authority(), free_port()
        issued = authority.issue()
        files = {"tls_crt": issued.certificate, "tls_key": issued.key, "ca_crt": authority.certificate}
        mounted = MountedSecret(tmp_path / "tls", **files)
        tls = {"SENSORLOG_TLS_DIR": str(mounted.directory), "SENSORLOG_GRPC_PORT": str(port)}
        process = start_service("sensorlog_query", pipeline, **tls, **settings)
        return Secured(f"127.0.0.1:{port}", authority, process.wait_ready())

    return start


@pytest.fixture
def asking(start_query: Callable[..., Secured], api_server: ApiServer, reviewer: Object, tmp_path: Path) -> Secured:
    """Return a query service that asks for tokens."""
    own = tmp_path / "serviceaccount"
    own.mkdir()
    (own / "token").write_text(api_server.token(reviewer))
    (own / "ca.crt").write_bytes(api_server.authority.certificate)
    return start_query(
        SENSORLOG_AUTH="kubernetes",
        SENSORLOG_AUTH_AUDIENCE=AUDIENCE,
        SENSORLOG_AUTH_API_SERVER=api_server.url,
        SENSORLOG_AUTH_DIR=str(own),
        SENSORLOG_AUTH_CACHE_SECONDS="0",
    )


@pytest.fixture
def route(pipeline: Pipeline, start_ingest: StartService) -> Route:
    """Return where canaries go in, with ingest that stores them; each test says where they come out."""
    start_ingest(pipeline)
    return Route(
        kafka_options={"bootstrap.servers": pipeline.config.kafka.bootstrap_servers},
        topic=pipeline.config.kafka.readings_topic,
        endpoint=Endpoint("127.0.0.1:1"),
        interval=60,
        patience=30,
    )


def test_a_canary_is_looked_for_with_a_token_that_reads_nothing_else(
    route: Route, asking: Secured, probe: Probe, tokens: Tokens, api_server: ApiServer
) -> None:
    """Whoever runs the query service sees it, and can do nothing with it: neither here nor at the API server."""
    outcome = probe.outcome_of(KEY, replace(route, endpoint=asking.endpoint(audience=AUDIENCE)))
    assert outcome.reason is Reason.READY, outcome.message
    metadata = (("authorization", f"Bearer {tokens.of(AUDIENCE)}"),)
    credentials = grpc.ssl_channel_credentials(asking.authority.certificate)
    with grpc.secure_channel(asking.target, credentials) as channel:
        stub = LoggerStub(channel)
        assert stub.ListCanary(pb.ListCanaryReq(), metadata=metadata).results
        with refused(grpc.StatusCode.PERMISSION_DENIED, "sensorlogpipelines/data"):
            stub.ListSensorData(pb.ListSensorDataReq(), metadata=metadata)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "sensorlogpipelines/data"):
            list(stub.ExportSensorData(pb.ExportSensorDataReq(), metadata=metadata))
    own = tokens.of("https://kubernetes.default.svc")
    review = api_server.call("POST", RULES_REVIEW, {"spec": {"namespace": "test"}}, token=own)
    may = {resource for rule in review["status"]["resourceRules"] for resource in rule["resources"]}
    assert may == {"sensorlogpipelines/canary"} | OF_EVERYBODY


def test_a_token_is_got_once_and_renewed_before_it_expires(api_server: ApiServer, tokens: Tokens, clock: Clock) -> None:
    """By the API server's own count. While none can be had, the last is used until it expires and no longer."""
    before = asked(api_server)
    first = tokens.of(AUDIENCE)
    assert [tokens.of(AUDIENCE) for _ in range(3)] == [first] * 3
    assert tokens.of("another.svc") != first
    assert asked(api_server) - before == 2
    clock.leaps += LIFETIME_SECONDS * RENEWED_AFTER + 1
    second = tokens.of(AUDIENCE)
    assert second != first
    assert asked(api_server) - before == 3
    clock.leaps += LIFETIME_SECONDS * RENEWED_AFTER + 1
    api_server.call("DELETE", ACCOUNT_PATH)
    try:
        assert tokens.of(AUDIENCE) == second
        clock.leaps += LIFETIME_SECONDS
        with pytest.raises(PipelineError, match=CANARY_ACCOUNT):
            tokens.of(AUDIENCE)
    finally:
        api_server.account(NAMESPACE, CANARY_ACCOUNT)
    assert tokens.of(AUDIENCE) not in (first, second)


def asked(server: ApiServer) -> int:
    """Return how many tokens the operator got."""
    about = [request["objectRef"] for request in server.requests(USER) if "objectRef" in request]
    return sum(ref.get("subresource") == "token" for ref in about)


def test_an_account_made_anew_costs_one_canary(
    route: Route, asking: Secured, probe: Probe, api_server: ApiServer
) -> None:
    """Its tokens from before hold no more: that one is refused, and the next canary shows a new one."""
    asked_route = replace(route, endpoint=asking.endpoint(audience=AUDIENCE))
    assert probe.outcome_of(KEY, asked_route).reason is Reason.READY
    api_server.call("DELETE", ACCOUNT_PATH)
    api_server.account(NAMESPACE, CANARY_ACCOUNT)
    wait_for_value(  # the API server takes a token that it has just seen for good for some seconds more
        lambda: probe.outcome_of(KEY, asked_route).reason,
        Reason.CANARY_NOT_ADMITTED,
        deadline=30,
        what="what becomes of a canary",
    )
    assert probe.outcome_of(KEY, asked_route).reason is Reason.READY


def test_who_is_not_admitted_is_told_why(route: Route, asking: Secured, probe: Probe, api_server: ApiServer) -> None:
    """For another audience, without an account, without the right; never with the token in what is told."""
    told = []

    def refusal(sender: Probe, audience: str, words: str) -> bool:
        outcome = sender.outcome_of(KEY, replace(route, endpoint=asking.endpoint(audience=audience)))
        assert outcome.reason is Reason.CANARY_NOT_ADMITTED, outcome.message
        assert words in outcome.message
        told.append(outcome.message)
        return True

    assert refusal(probe, "another.svc", f"not issued for the audience '{AUDIENCE}'")
    with a_probe() as without_account:
        assert refusal(without_account, AUDIENCE, "no account for canaries: upgrade its chart")
    with without_right(api_server):
        wait_until(lambda: refusal(probe, AUDIENCE, "PERMISSION_DENIED"), deadline=15, what="the refusal")
    assert JWT not in "\n".join([*told, asking.process.logs])


@contextmanager
def without_right(server: ApiServer) -> Iterator[None]:
    """Take the account's right to look for canaries away within this block."""
    binding = server.call("GET", f"{BINDINGS}/{CANARY_ACCOUNT}")
    server.call("DELETE", f"{BINDINGS}/{CANARY_ACCOUNT}")
    try:
        yield
    finally:
        metadata = {"name": CANARY_ACCOUNT, "labels": binding["metadata"]["labels"]}
        server.call("POST", BINDINGS, {**binding, "metadata": metadata})


def test_a_canary_shows_a_certificate_where_the_service_demands_one(
    route: Route, start_query: Callable[..., Secured], probe: Probe
) -> None:
    """Without one, with a stranger's, and from a service of another authority, there is no answer."""
    service = start_query(SENSORLOG_TLS_CLIENT_AUTH="require")
    mine, stranger = (ClientCertificate(i.certificate, i.key) for i in (service.authority.issue(), Authority().issue()))

    def outcome(endpoint: Endpoint, patience: float = 3) -> Outcome:
        return probe.outcome_of(KEY, replace(route, endpoint=endpoint, patience=patience))

    assert outcome(service.endpoint(client=mine), patience=30).reason is Reason.READY
    for client_certificate in (None, stranger):
        refused_one = outcome(service.endpoint(client=client_certificate))
        assert refused_one.reason is Reason.CANARY_NOT_ANSWERED
        assert "spec.canary.clientCertificateSecretRef" in refused_one.message
    impostor = replace(service.endpoint(client=mine), tls=Tls(Authority("another").certificate, mine))
    assert outcome(impostor).reason is Reason.CANARY_NOT_ANSWERED


def test_no_token_travels_in_clear() -> None:
    """Whatever the resource says."""
    with pytest.raises(ValueError, match="in clear"):
        Endpoint("127.0.0.1:1", None, AUDIENCE)
