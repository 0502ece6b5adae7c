"""The children of a pipeline as manifests, and the plan that compares them with what lives."""

import copy
from typing import Any

import pytest

from sensorlog.pipeline import PipelineConfig
from sensorlog_operator import manifests, workloads
from sensorlog_operator.errors import Reason
from sensorlog_operator.plans import Refusal
from sensorlog_query.settings import Settings as QuerySettings
from support.resources import UID, a_pipeline, mounts, operator_settings

Object = dict[str, Any]

COMPONENT_DIGITS = (("ingest", "1"), ("query", "2"))


def build(**spec: Any) -> dict[tuple[str, str], Object]:
    """Return the manifests of a pipeline by kind and name."""
    pipeline = a_pipeline(**spec)
    children = manifests.build_all(pipeline, operator_settings(), mounts(pipeline))
    return {(child["kind"], child["metadata"]["name"]): child for child in children}


def live(children: dict[tuple[str, str], Object]) -> dict[tuple[str, str], Object]:
    """Return the children as a cluster would hold them after the plan was applied."""
    actions = workloads.plan(children.values(), {}, UID)
    applied = [copy.deepcopy(a.manifest) for a in actions if isinstance(a, workloads.ApplyObject)]
    return {(child["kind"], child["metadata"]["name"]): child for child in applied}


def summaries(children: dict[tuple[str, str], Object], observed: dict[tuple[str, str], Object]) -> list[str]:
    """Return the plan in words."""
    return [action.summary for action in workloads.plan(children.values(), observed, UID)]


def test_a_new_pipeline_gets_all_its_children() -> None:
    """ConfigMap first, because pods mount it."""
    assert summaries(build(), {}) == [
        "create ConfigMap plant-pipeline",
        "create ServiceAccount plant-ingest",
        "create PodDisruptionBudget plant-ingest",
        "create Deployment plant-ingest",
        "create ServiceAccount plant-query",
        "create PodDisruptionBudget plant-query",
        "create Deployment plant-query",
        "create Service plant-query",
        "create Service plant-query-pods",
    ]


def test_nothing_is_planned_for_children_as_declared() -> None:
    """A reconcile without a change writes nothing."""
    assert summaries(build(), live(build())) == []


def test_a_value_changed_by_hand_is_repaired_by_name() -> None:
    """The plan says which value it was."""
    observed = live(build())
    observed["Deployment", "plant-ingest"]["spec"]["replicas"] = 5
    assert summaries(build(), observed) == ["repair Deployment plant-ingest: spec.replicas was changed by hand"]


def test_an_environment_variable_added_by_hand_is_repaired() -> None:
    """A list with one more element is another list."""
    observed = live(build())
    container = observed["Deployment", "plant-query"]["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "X", "value": "1"})
    (said,) = summaries(build(), observed)
    assert said.endswith("spec.template.spec.containers was changed by hand")


def test_a_repair_takes_a_strangers_selector_away() -> None:
    """Server-side apply would leave what another manager added; the patch removes it by name."""
    observed = live(build())
    observed["Service", "plant-query"]["spec"]["selector"]["intruder"] = "1"
    (action,) = workloads.plan(build().values(), observed, UID)
    assert isinstance(action, workloads.RepairObject)
    assert action.patch == {"spec": {"selector": {"intruder": None}}}


def test_labels_that_others_add_to_an_object_are_theirs() -> None:
    """Tools mark what they manage; that changes nothing of what the object does."""
    observed = live(build())
    observed["Service", "plant-query"]["metadata"]["labels"]["team"] = "blue"
    assert summaries(build(), observed) == []


def test_fields_that_the_cluster_adds_are_not_drift() -> None:
    """Defaults and status are the API server's."""
    observed = live(build())
    observed["Deployment", "plant-query"]["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    observed["Deployment", "plant-query"]["status"] = {"replicas": 1}
    assert summaries(build(), observed) == []


def test_quantities_are_compared_as_quantities() -> None:
    """The API server stores 1000m as 1."""
    resources = {"requests": {"cpu": "1000m"}, "limits": {"memory": "1024Mi"}}
    wanted = build(ingest={"resources": resources})
    observed = live(wanted)
    container = observed["Deployment", "plant-ingest"]["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}
    assert summaries(wanted, observed) == []


def test_a_field_taken_away_is_noticed() -> None:
    """The live object still contains all that is wanted, and yet it must change."""
    before = build(ingest={"resources": {"limits": {"memory": "1Gi"}}})
    assert "update Deployment plant-ingest" in summaries(build(ingest={"resources": {}}), live(before))


def test_an_object_of_somebody_else_is_not_touched() -> None:
    """It has our name but not our owner."""
    observed = live(build())
    observed["Service", "plant-query"]["metadata"]["ownerReferences"] = []
    (action,) = workloads.plan(build().values(), observed, UID)
    assert isinstance(action, Refusal)
    assert action.reason is Reason.WORKLOAD_REJECTED


def test_configuration_and_credentials_roll_the_pods() -> None:
    """The checksum in the pod template depends on both."""

    def checksum(spec: dict[str, Any], digest: str) -> str:
        children = manifests.build_all(a_pipeline(**spec), operator_settings(), mounts(a_pipeline(**spec), digest))
        deployment = next(c for c in children if c["metadata"]["name"] == "plant-query" and c["kind"] == "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"][manifests.CONFIG_CHECKSUM])

    base = checksum({}, "a")
    assert checksum({}, "b") != base
    assert checksum({"measurements": [{"name": "humidity"}]}, "a") != base
    assert checksum({"query": {"replicas": 3}}, "a") == base


def test_services_read_the_document_that_the_operator_writes() -> None:
    """The ConfigMap holds a PipelineConfig."""
    document = build(timestampUnit="ms")["ConfigMap", "plant-pipeline"]["data"][manifests.CONFIG_FILE]
    config = PipelineConfig.model_validate_json(document)
    assert (config.timestamp_unit, config.db_schema, config.batch.max_delay_ms) == ("ms", "slp_default_plant", 250)


def test_paused_stops_ingest_and_nothing_else() -> None:
    """Queries go on."""
    children = build(paused=True)
    assert children["Deployment", "plant-ingest"]["spec"]["replicas"] == 0
    assert children["Deployment", "plant-query"]["spec"]["replicas"] == 1


def test_a_replica_is_read_by_query_only() -> None:
    """Ingest writes to the primary."""
    timescale = {"connectionSecretRef": {"name": "primary"}, "readConnectionSecretRef": {"name": "replica", "key": "u"}}
    children = build(timescale=timescale)

    def secret(component: str) -> Object:
        volumes = children["Deployment", f"plant-{component}"]["spec"]["template"]["spec"]["volumes"]
        (source,) = next(v for v in volumes if v["name"] == "database")["projected"]["sources"]
        return dict(source["secret"])

    assert secret("ingest") == {"name": "primary", "items": [{"key": "uri", "path": "uri"}]}
    assert secret("query") == {"name": "replica", "items": [{"key": "u", "path": "uri"}]}


@pytest.mark.parametrize("component", ["ingest", "query"])
def test_pods_are_restricted(component: str) -> None:
    """As the restricted Pod Security Standard demands, and without a token."""
    pod = build()["Deployment", f"plant-{component}"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


SECURED = {
    "tls": {"secretRef": {"name": "plant-tls"}, "clientAuth": "Require"},
    "authentication": {"type": "Kubernetes"},
}


def query_pod(children: dict[tuple[str, str], Object]) -> Object:
    """Return the spec of the query pods."""
    return dict(children["Deployment", "plant-query"]["spec"]["template"]["spec"])


def query_environment(children: dict[tuple[str, str], Object]) -> dict[str, str]:
    """Return the query container's environment."""
    (container,) = query_pod(children)["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_the_certificate_is_mounted_where_the_service_looks() -> None:
    """With the clients' authority, because they must show a certificate."""
    children = build(query=SECURED)
    (volume,) = (v for v in query_pod(children)["volumes"] if v["name"] == "tls")
    assert [(s["secret"]["name"], s["secret"]["items"][0]["path"]) for s in volume["projected"]["sources"]] == [
        ("plant-tls", "tls.crt"),
        ("plant-tls", "tls.key"),
        ("plant-tls", "ca.crt"),
    ]
    (container,) = query_pod(children)["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "tls")
    environment = query_environment(children)
    assert environment["SENSORLOG_TLS_DIR"] == mount["mountPath"]
    assert environment["SENSORLOG_TLS_CLIENT_AUTH"] == "require"


def test_a_certificate_without_an_authority_is_enough_where_clients_need_none() -> None:
    """Not every issuer writes ca.crt."""
    pod = query_pod(build(query={"tls": {"secretRef": {"name": "plant-tls"}}}))
    (volume,) = (v for v in pod["volumes"] if v["name"] == "tls")
    assert [s["secret"]["items"][0]["key"] for s in volume["projected"]["sources"]] == ["tls.crt", "tls.key"]


def test_the_probe_of_the_query_service_is_no_call_of_it() -> None:
    """A service that turns calls away is at work and ready; and the kubelet's gRPC probe cannot do TLS."""
    for query in ({}, SECURED):
        (container,) = query_pod(build(query=query))["containers"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "telemetry"}


REPLICA = {"connectionSecretRef": {"name": "primary"}, "readConnectionSecretRef": {"name": "replica"}}


def test_the_primary_is_mounted_beside_the_replica_where_it_may_be_asked() -> None:
    """In a folder of its own, which the service is told."""
    children = build(timescale=REPLICA, query={"replicaFallback": "Primary"})
    (volume,) = (v for v in query_pod(children)["volumes"] if v["name"] == "primary")
    assert volume["projected"]["sources"][0]["secret"]["name"] == "primary"
    (container,) = query_pod(children)["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "primary")
    assert query_environment(children)["SENSORLOG_PRIMARY_DIR"] == mount["mountPath"]


def test_the_primary_is_not_mounted_without_leave() -> None:
    """By default it has nothing to do with reading; without a replica it is what is read."""
    for spec in ({"timescale": REPLICA}, {"query": {"replicaFallback": "Primary"}}):
        children = build(**spec)
        assert "primary" not in [v["name"] for v in query_pod(children)["volumes"]]
        assert "SENSORLOG_PRIMARY_DIR" not in query_environment(children)


def test_only_query_pods_that_review_tokens_have_a_token() -> None:
    """And their ServiceAccount gives none to other pods that may use it."""
    children = build(query=SECURED)
    ingest = children["Deployment", "plant-ingest"]["spec"]["template"]["spec"]
    assert query_pod(children)["automountServiceAccountToken"] is True
    assert ingest["automountServiceAccountToken"] is False
    assert children["ServiceAccount", "plant-query"]["automountServiceAccountToken"] is False


def test_a_token_holds_at_one_pipeline_unless_an_audience_is_named() -> None:
    """The default audience is the service's own name."""
    environment = query_environment(build(query=SECURED))
    assert environment["SENSORLOG_AUTH"] == "kubernetes"
    assert environment["SENSORLOG_AUTH_AUDIENCE"] == "plant-query.default.svc"
    named = {**SECURED, "authentication": {"type": "Kubernetes", "audience": "readings"}}
    assert query_environment(build(query=named))["SENSORLOG_AUTH_AUDIENCE"] == "readings"


def test_a_query_service_without_security_has_none_of_its_settings() -> None:
    """Neither mount nor variable."""
    children = build()
    assert not [name for name in query_environment(children) if "TLS" in name or "AUTH" in name]
    assert [v["name"] for v in query_pod(children)["volumes"]] == ["pipeline", "tmp", "database"]


@pytest.mark.parametrize("spec", [{}, {"processes": 4}])
def test_processes_are_the_services_setting(spec: dict[str, Any]) -> None:
    """One unless more are asked for."""
    assert query_environment(build(query=spec))["SENSORLOG_PROCESSES"] == str(spec.get("processes", 1))


def test_clients_that_balance_find_every_ready_pod() -> None:
    """The headless Service has the same port and pods as the one with an address, and no pod that is not ready."""
    children = build()
    one, each = (children["Service", f"plant-{name}"]["spec"] for name in ("query", "query-pods"))
    assert each == {**one, "clusterIP": "None", "publishNotReadyAddresses": False}
    assert "clusterIP" not in one


@pytest.mark.parametrize(("query", "protocol"), [({}, "kubernetes.io/h2c"), (SECURED, "https")])
def test_services_tell_what_the_port_speaks(query: dict[str, Any], protocol: str) -> None:
    """To meshes and gateways."""
    children = build(query=query)
    for name in ("query", "query-pods"):
        assert children["Service", f"plant-{name}"]["spec"]["ports"][0]["appProtocol"] == protocol


def test_callers_have_left_a_query_pod_before_it_stops() -> None:
    """The endpoints are told within 3 seconds; then no connection is older than it may get, and calls finish."""
    service = QuerySettings.model_fields
    longest = 1.1 * service["connection_seconds"].default
    pod = query_pod(build())
    drain = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain >= 3 + longest
    assert pod["terminationGracePeriodSeconds"] > drain + service["shutdown_seconds"].default


@pytest.mark.parametrize("named_by", ["operator", "resource"])
def test_images_by_digest_reach_the_pods_as_they_are(named_by: str) -> None:
    """Whoever names them; the resource first. Secrets to pull them with are the operator's to say."""
    images = {name: f"registry.example.com/{name}@sha256:{digit * 64}" for name, digit in COMPONENT_DIGITS}
    update: dict[str, Any] = {"image_pull_secrets": ("a", "b")}
    if named_by == "operator":
        spec, update = {}, {**update, **{f"{name}_image": image for name, image in images.items()}}
    else:
        spec = {name: {"image": image} for name, image in images.items()}
    pipeline = a_pipeline(**spec)
    children = manifests.build_all(pipeline, operator_settings().model_copy(update=update), mounts(pipeline))
    pods = [child["spec"]["template"]["spec"] for child in children if child["kind"] == "Deployment"]
    assert {pod["containers"][0]["name"]: pod["containers"][0]["image"] for pod in pods} == images
    assert [pod["imagePullSecrets"] for pod in pods] == [[{"name": "a"}, {"name": "b"}]] * 2


def test_names_of_the_longest_pipeline_fit() -> None:
    """A Service's name is a DNS label of at most 63."""
    pipeline = a_pipeline(name="p" * 52)
    children = manifests.build_all(pipeline, operator_settings(), mounts(pipeline))
    assert max(len(child["metadata"]["name"]) for child in children) <= 63


def test_no_secret_value_is_in_a_manifest() -> None:
    """Pods mount Secrets by name."""
    security = {
        "protocol": "SASL_SSL",
        "saslMechanism": "PLAIN",
        "credentialsSecretRef": {"name": "kafka-user"},
        "caSecretRef": {"name": "kafka-ca"},
    }
    children = build(kafka={"bootstrapServers": "kafka:9092", "security": security})
    pod = children["Deployment", "plant-ingest"]["spec"]["template"]["spec"]
    sources = next(v for v in pod["volumes"] if v["name"] == "kafka")["projected"]["sources"]
    assert [(s["secret"]["name"], s["secret"]["items"][0]["path"]) for s in sources] == [
        ("kafka-user", "username"),
        ("kafka-user", "password"),
        ("kafka-ca", "ca.crt"),
    ]


def test_a_rollout_is_complete_when_every_pod_is_ready_and_new() -> None:
    """Pods of the old template do not count."""
    assert workloads.Rollout(wanted=2, ready=2, updated=True).complete
    assert not workloads.Rollout(wanted=2, ready=2, updated=False).complete
    assert not workloads.Rollout(wanted=2, ready=1, updated=True).complete
