"""The operator as a process, with exactly the chart's rights in a real API server: what it does, and what it needs."""

import base64
import json
import secrets
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from support.apiserver import ApiServer, Object
from support.containers import ContainerEngine
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import (
    USER,
    Login,
    OperatedPipeline,
    install_keda,
    install_rights,
    login,
    operated_api_server,
    pipelines_path,
    remove_keda,
    remove_rights,
    rendered,
    start_operator,
)
from support.pods import Pods
from support.processes import ServiceProcess
from support.resources import pipeline_body
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

APPS, NETWORKING, SCALING, KEDA = (
    f"/apis/{api}" for api in ("apps/v1", "networking.k8s.io/v1", "autoscaling/v2", "keda.sh/v1alpha1")
)
BY_LAG = {"autoscaling": {"minReplicas": 2, "maxReplicas": 8}}
BY_LOAD = {"autoscaling": {"minReplicas": 1, "maxReplicas": 8}}
AUTHENTICATED = {"tls": {"secretRef": {"name": "plant-tls"}}, "authentication": {"type": "Kubernetes"}}

MakePipeline = Callable[..., OperatedPipeline]
Right = tuple[str, str, str]
"""API group, resource with its subresource, and verb."""

TOKEN: Right = ("", "serviceaccounts/token", "create")
JWT = "eyJ"
"""What every token of a ServiceAccount begins with: `{"` in base64."""

OPERATORS_ROLES = ("sensorlog-operator", "sensorlog-operator-identity", "sensorlog-operator-canary-tokens")

CHECKED_WITHIN = {("rbac.authorization.k8s.io", "clusterroles", "bind")}
"""What the API server asks about itself while it looks at another request: no request of its own shows it."""


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Yield an API server that knows pipelines, and where the operator has an account."""
    with operated_api_server(engine, rights=False) as server:
        yield server


@pytest.fixture(scope="module")
def user(database: Database) -> Login:
    """Return the database's user that the Secrets name."""
    return login(database)


@pytest.fixture(scope="module")
def operator(
    api_server: ApiServer, broker: KafkaBroker, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """Yield the operator, watching every namespace."""
    assert broker
    assert database
    install_rights(api_server)
    process = start_operator(api_server, tmp_path_factory.mktemp("operator"))
    yield process.wait_ready()
    process.clean_up()
    remove_rights(api_server)


@pytest.fixture
def make_pipeline(api_server: ApiServer, broker: KafkaBroker, user: Login) -> Iterator[MakePipeline]:
    """Yield a factory of pipelines, each in a namespace of its own with the Secrets that it names."""
    made: list[OperatedPipeline] = []

    def make(namespace: str | None = None, **spec: Any) -> OperatedPipeline:
        namespace = namespace or f"plants-{secrets.token_hex(3)}"
        put_namespace(api_server, namespace)
        put_secret(api_server, namespace, "timescaledb", uri=user.uri)
        issued = api_server.authority.issue()
        values = {"tls.crt": issued.certificate.decode(), "tls.key": issued.key.decode()}
        put_secret(api_server, namespace, "plant-tls", **values)
        made.append(OperatedPipeline(api_server, broker, namespace).create(**spec))
        return made[-1]

    yield make
    for pipeline in made:
        print(json.dumps((api_server.find(pipeline.path) or {}).get("status"), indent=1))  # noqa: T201 -- shown by pytest
        pipeline.delete()


def put_namespace(server: ApiServer, name: str) -> None:
    """Create a namespace where there is none of that name."""
    if server.find(f"/api/v1/namespaces/{name}") is None:
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


def put_secret(server: ApiServer, namespace: str, name: str, **values: str) -> None:
    """Create a Secret, or give the one of that name these values."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    if server.find(f"{path}/{name}"):
        server.merge(f"{path}/{name}", {"data": data})
    else:
        server.call("POST", path, {"metadata": {"name": name}, "data": data})


def granted(*options: str) -> set[Right]:
    """Return what the chart lets the operator do."""
    rules = [
        rule
        for document in rendered(*options)
        if document["kind"] in ("ClusterRole", "Role") and document["metadata"]["name"] in OPERATORS_ROLES
        for rule in document["rules"]
    ]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(requests: list[Object]) -> set[Right]:
    """Return what the operator did by audit. What an apply creates needs the right to create beside that to patch."""
    found: set[Right] = set()
    for request in requests:
        if (about := request.get("objectRef")) is None:
            continue  # discovery, which everybody may
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        verbs = [request["verb"]]
        if request["verb"] == "patch" and request.get("responseStatus", {}).get("code") == 201:
            verbs.append("create")
        found |= {(about.get("apiGroup", ""), resource, verb) for verb in verbs}
    return found


def refused(requests: list[Object]) -> list[str]:
    """Return the requests that the operator had no right to."""
    return [
        f"{request['verb']} {request['requestURI']}"
        for request in requests
        if request.get("responseStatus", {}).get("code") == 403
    ]


# Chosen namespaces: first, while no other operator runs


def test_chosen_namespaces_need_no_right_beyond_them(
    api_server: ApiServer, make_pipeline: MakePipeline, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A pipeline elsewhere is not looked at; one that authenticates learns what an administrator must do."""
    watched, other = (f"chosen-{secrets.token_hex(3)}" for _ in range(2))
    for namespace in (watched, other):
        put_namespace(api_server, namespace)
    before = len(api_server.requests(USER))
    install_rights(api_server, "--set", f"watchNamespaces={{{watched}}}")
    request.addfinalizer(lambda: remove_rights(api_server))
    operator = start_operator(
        api_server, tmp_path, SENSORLOG_WATCH_NAMESPACES=watched, SENSORLOG_TOKEN_REVIEWERS=""
    ).wait_ready()
    try:
        elsewhere = make_pipeline(other)
        pipeline = make_pipeline(watched, query=AUTHENTICATED)
        pipeline.wait_child(APPS, "deployments", "ingest")
        condition = pipeline.wait_condition("QueryReady", "False", "TokenReviewersNotManaged")
        assert f"bind ClusterRole system:auth-delegator to ServiceAccount {watched}/plant-query" in condition["message"]
        pipeline.wait_condition("SchemaReady", "True", "Ready")
        assert "status" not in elsewhere.get()
    finally:
        operator.clean_up()
    requests = api_server.requests(USER)[before:]
    assert requests
    assert refused(requests) == []
    assert {about.get("namespace") for r in requests if (about := r.get("objectRef"))} == {watched, "sensorlog"}


# Scaling


@pytest.fixture
def keda(api_server: ApiServer) -> Iterator[None]:
    """Let the cluster know KEDA's kinds."""
    install_keda(api_server)
    yield
    remove_keda(api_server)


@pytest.mark.usefixtures("operator")
def test_the_scale_subresource_scales_ingest(api_server: ApiServer, make_pipeline: MakePipeline) -> None:
    """As kubectl scale and any scaler use it; what it shows of pods is what there is."""
    pipeline = make_pipeline()
    pipeline.wait_child(APPS, "deployments", "ingest")
    api_server.merge(f"{pipeline.path}/scale", {"spec": {"replicas": 3}})
    wait_for_value(lambda: pipeline.replicas("ingest"), 3, deadline=30, what="ingest's replicas")
    scale = api_server.call("GET", f"{pipeline.path}/scale")
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 0)
    selected = set(scale["status"]["selector"].split(","))
    assert selected >= {"app.kubernetes.io/instance=plant", "app.kubernetes.io/component=ingest"}


@pytest.mark.usefixtures("operator")
def test_a_scaler_takes_over_without_a_pod_less_and_gives_back(
    api_server: ApiServer, make_pipeline: MakePipeline
) -> None:
    """The number stays when the operator stops naming it; a scaler's is left alone; then the resource's holds again."""
    pipeline = make_pipeline(query={"replicas": 3})
    wait_for_value(lambda: pipeline.replicas("query"), 3, deadline=45, what="query's replicas")
    seen: list[int] = []

    def handed_over() -> bool:
        seen.append(pipeline.replicas("query"))
        return pipeline.child(SCALING, "horizontalpodautoscalers", "query") is not None

    pipeline.change(query=BY_LOAD)
    wait_until(handed_over, deadline=45, what="the HorizontalPodAutoscaler")
    pipeline.wait_condition("AutoscalingReady", "True", "Ready")
    assert {*seen, pipeline.replicas("query")} == {3}

    path = f"{APPS}/namespaces/{pipeline.namespace}/deployments/plant-query"
    api_server.merge(f"{path}/scale", {"spec": {"replicas": 7}})
    changed = {**BY_LOAD, "processes": 2}
    pipeline.change(query=changed)
    wait_until(lambda: '"2"' in json.dumps(pipeline.deployment("query")), deadline=45, what="the new template")
    assert pipeline.replicas("query") == 7

    pipeline.change(query={"autoscaling": None})
    wait_for_value(lambda: pipeline.replicas("query"), 3, deadline=45, what="query's replicas")
    assert pipeline.child(SCALING, "horizontalpodautoscalers", "query") is None
    wait_until(lambda: pipeline.condition("AutoscalingReady") is None, deadline=45, what="the condition to go")


@pytest.mark.usefixtures("operator")
def test_keda_is_missed_until_it_is_there(make_pipeline: MakePipeline, request: pytest.FixtureRequest) -> None:
    """Without it ingest stays at its least; installed later, it takes over by itself."""
    pipeline = make_pipeline(ingest=BY_LAG)
    condition = pipeline.wait_condition("AutoscalingReady", "False", "KedaMissing")
    assert "ingest stays at 2 pods" in condition["message"]
    assert pipeline.replicas("ingest") == 2
    request.getfixturevalue("keda")
    scaler = pipeline.wait_child(KEDA, "scaledobjects", "ingest")
    assert scaler is not None
    assert scaler["spec"]["maxReplicaCount"] == 4  # the partitions
    pipeline.wait_condition("AutoscalingReady", "True", "Ready")
    assert pipeline.replicas("ingest") == 2
    pipeline.change(paused=True)
    pipeline.wait_child(KEDA, "scaledobjects", "ingest", lambda child: child is None)
    assert pipeline.replicas("ingest") == 0


def refusal(server: ApiServer, **spec: Any) -> str | None:
    """Return why the API server refuses a resource with these fields, None where it does not."""
    body = pipeline_body(**spec)
    body["metadata"] = {"name": "plant", "namespace": "default"}
    try:
        server.call("POST", f"{pipelines_path('default')}?dryRun=All", body)
    except urllib.error.HTTPError as e:
        with e:
            return str(json.loads(e.read())["message"])
    return None


def test_autoscaling_and_policies_that_make_sense_are_accepted(api_server: ApiServer) -> None:
    """Down to no ingest pod, and with requests that are given as a number."""
    resources = {"requests": {"cpu": 1}}
    peer = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}
    policy = {"mode": "Strict", "clients": [peer], "egressPorts": [9094]}
    ingest = {"autoscaling": {"minReplicas": 0, "maxReplicas": 1}}
    query = {"autoscaling": {"maxReplicas": 1}, "resources": resources}
    assert refusal(api_server, ingest=ingest, query=query, networkPolicy=policy) is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"ingest": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}}, "minReplicas must not be above"),
        ({"ingest": {"autoscaling": {"maxReplicas": 0}}}, "spec.ingest.autoscaling.maxReplicas"),
        ({"ingest": {"autoscaling": {"maxReplicas": 1, "lagThreshold": 0}}}, "lagThreshold"),
        ({"query": {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}}}, "spec.query.autoscaling.minReplicas"),
        ({"query": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}}, "minReplicas must not be above"),
        ({"query": {"autoscaling": {"maxReplicas": 2}, "resources": {}}}, "needs resources.requests.cpu"),
        (
            {"query": {"autoscaling": {"maxReplicas": 2}, "resources": {"requests": {"memory": "1Gi"}}}},
            "needs resources.requests.cpu",
        ),
        ({"networkPolicy": {"mode": "Open"}}, "spec.networkPolicy.mode"),
        ({"networkPolicy": {"egressPorts": [0]}}, "spec.networkPolicy.egressPorts"),
    ],
)
def test_autoscaling_and_policies_that_make_no_sense_are_refused(
    api_server: ApiServer, spec: dict[str, Any], said: str
) -> None:
    """With the field, before anything happens."""
    assert said in (refusal(api_server, **spec) or "accepted")


# Rights


@pytest.mark.usefixtures("keda")
def test_every_right_is_used_and_every_use_is_granted(
    api_server: ApiServer, operator: ServiceProcess, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """By the API server's own audit of a pipeline's whole life, against what the chart grants."""
    security = {"protocol": "SASL_PLAINTEXT", "saslMechanism": "PLAIN", "credentialsSecretRef": {"name": "kafka-user"}}
    pipeline = make_pipeline(
        ingest=BY_LAG, query={**AUTHENTICATED, **BY_LOAD}, deletionPolicy="Delete", networkPolicy={"mode": "Strict"}
    )
    pipeline.wait_child(KEDA, "scaledobjects", "ingest")
    pipeline.wait_condition("QueryReady", "False", "Progressing")
    Pods(pipeline, tmp_path).report("query", total=1)
    pipeline.change(canary={})
    late = {TOKEN, *(("keda.sh", plural, "watch") for plural in ("scaledobjects", "triggerauthentications"))}
    wait_until(
        lambda: late <= used(api_server.requests(USER)), deadline=45, what="a token for canaries, KEDA's watches"
    )
    # Ingest that logs in would scale by a TriggerAuthentication; what exists goes on while the broker refuses it.
    put_secret(api_server, pipeline.namespace, "kafka-user", username="u", password=secrets.token_hex(8))
    pipeline.change(kafka={"security": security})
    pipeline.wait_child(KEDA, "triggerauthentications", "ingest")
    pipeline.change(
        kafka={"security": {"protocol": "PLAINTEXT", "saslMechanism": None, "credentialsSecretRef": None}},
        ingest={"autoscaling": None},
        query={"autoscaling": None, "authentication": None},
        networkPolicy={"mode": "None"},
    )
    for api, plural, component in (
        (KEDA, "scaledobjects", "ingest"),
        (KEDA, "triggerauthentications", "ingest"),
        (SCALING, "horizontalpodautoscalers", "query"),
        (NETWORKING, "networkpolicies", "query"),
    ):
        pipeline.wait_child(api, plural, component, lambda child: child is None)
    pipeline.wait_condition("TopicReady", "True", "Ready")
    pipeline.approve_deletion()
    pipeline.delete()
    assert operator.is_running
    requests = api_server.requests(USER)
    assert refused(requests) == []
    assert used(requests) | CHECKED_WITHIN == granted()


# Secrets


def test_no_secret_is_logged_or_shown(
    api_server: ApiServer, operator: ServiceProcess, make_pipeline: MakePipeline, user: Login, tmp_path: Path
) -> None:
    """Neither when all is well nor when the database refuses it or it cannot even be read, nor by canaries."""
    pipeline = make_pipeline(query=AUTHENTICATED)
    pipeline.wait_condition("SchemaReady", "True", "Ready")
    pipeline.wait_child(APPS, "deployments", "query")
    issued = api_server.authority.issue("canary")
    put_secret(
        api_server,
        pipeline.namespace,
        "plant-canary",
        **{"tls.crt": issued.certificate.decode(), "tls.key": issued.key.decode()},
    )
    Pods(pipeline, tmp_path).report("query", total=1)
    pipeline.change(canary={"clientCertificateSecretRef": {"name": "plant-canary"}})
    pipeline.wait_condition("DataFlowing", "False", "CanaryNotAnswered", deadline=60)
    wrong = f"pw-{secrets.token_hex(12)}"
    put_secret(api_server, pipeline.namespace, "timescaledb", uri=user.uri.replace(user.password, wrong))
    pipeline.wait_condition("SchemaReady", "False", "DatabaseAuthenticationFailed")
    broken = f"pw-{secrets.token_hex(12)}"
    put_secret(api_server, pipeline.namespace, "timescaledb", uri=f"postgresql://u:{broken}@[h/d")
    pipeline.wait_condition("SchemaReady", "False", "ConnectionUriInvalid")
    values = secret_values(api_server, pipeline.namespace)
    shown = "\n".join([operator.logs, *everything_but_secrets(api_server, pipeline.namespace)])
    assert "plant" in shown
    assert len(values) > 3
    for marker in (user.password, wrong, broken, JWT, *values):
        assert marker not in shown


def secret_values(server: ApiServer, namespace: str) -> list[str]:
    """Return what the Secrets of a namespace hold, the operator's own among them; of a certificate's key, a line."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    values = [
        base64.b64decode(value).decode()
        for secret in server.call("GET", path)["items"]
        for key, value in secret["data"].items()
        if key != "tls.crt"
    ]
    passwords = [str(conninfo_to_dict(value)["password"]) for value in values if value.startswith("postgresql://slp")]
    return [*(value.splitlines()[-2] if "\n" in value else value for value in values), *passwords]


def everything_but_secrets(server: ApiServer, namespace: str) -> list[str]:
    """Return all that anybody may read in a namespace who may not read Secrets."""
    resources = [
        ("/api/v1", server.call("GET", "/api/v1")),
        *(
            (f"/apis/{version}", server.call("GET", f"/apis/{version}"))
            for group in server.call("GET", "/apis")["groups"]
            for version in (group["preferredVersion"]["groupVersion"],)
        ),
    ]
    return [
        json.dumps(server.call("GET", f"{api}/namespaces/{namespace}/{resource['name']}"))
        for api, listed in resources
        for resource in listed["resources"]
        if resource["namespaced"] and "list" in resource["verbs"] and resource["name"] != "secrets"
    ]
