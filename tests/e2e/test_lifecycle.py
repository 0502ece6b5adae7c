"""Deleting pipelines, and an operator that dies, goes and comes back."""

import json

import pytest
import yaml

from support.cluster import ROOT, Cluster, CommandError, E2EPipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}
SERVICE_ACCOUNT = "system:serviceaccount:sensorlog:sensorlog-operator"


def schema_exists(pipeline: E2EPipeline) -> bool:
    """Return whether the database has the pipeline's schema."""
    return pipeline.cluster.psql(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{pipeline.schema}'") == "1"


def topics(cluster: Cluster) -> list[str]:
    """Return the topics of the broker, asked for where there is a client: in the operator's pod."""
    program = (
        "from confluent_kafka.admin import AdminClient;"
        "print(*AdminClient({'bootstrap.servers': 'kafka.backing.svc:9092'}).list_topics(timeout=20).topics)"
    )
    return cluster.kubectl(
        "-n", "sensorlog", "exec", "deployment/sensorlog-operator", "--", "python", "-c", program
    ).split()


def test_retain_keeps_the_data_for_the_next_resource(pipeline: E2EPipeline) -> None:
    """No finalizer holds the resource; one of the same name takes the data over."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    assert "finalizers" not in pipeline.get()["metadata"]
    pipeline.delete()
    wait_until(lambda: pipeline.cluster.list("pods", pipeline.namespace), lambda p: not p, deadline=90, what="no pods")
    assert pipeline.stored() == 1
    assert pipeline.topic in topics(pipeline.cluster)
    pipeline.apply()
    pipeline.wait_ready()
    assert pipeline.readings() == [SEED]


def test_delete_takes_topic_and_schema_along(pipeline: E2EPipeline) -> None:
    """And only then lets the resource go."""
    pipeline.apply(deletionPolicy="Delete")
    pipeline.approve_deletion()
    pipeline.publish([SEED])
    pipeline.delete()
    assert not schema_exists(pipeline)
    assert pipeline.topic not in topics(pipeline.cluster)


def test_changing_back_to_retain_takes_the_finalizer_away(pipeline: E2EPipeline) -> None:
    """The policy at the time of deletion counts, and the safe one needs no approval."""
    pipeline.apply(deletionPolicy="Delete")
    pipeline.approve_deletion()
    pipeline.apply(deletionPolicy="Retain")
    wait_for_value(lambda: pipeline.get()["metadata"].get("finalizers"), None, deadline=30, what="the finalizers")


def test_a_deletion_that_nobody_approved_leaves_topic_and_schema(pipeline: E2EPipeline) -> None:
    """A deletionPolicy alone destroys nothing: what it would do is shown, and waits."""
    pipeline.apply(deletionPolicy="Delete")
    pipeline.wait_condition("PlanPending", "ApprovalPending", status="True")
    pipeline.delete()
    assert schema_exists(pipeline)
    assert pipeline.topic in topics(pipeline.cluster)


def test_a_deletion_that_cannot_clean_up_says_why_and_how_to_let_go(cluster: Cluster, namespace: str) -> None:
    """A broker that never comes back does not hold the resource for ever: Retain lets it go."""
    kafka = {"bootstrapServers": "nowhere.backing.svc:9092"}
    pipeline = E2EPipeline(cluster, namespace, spec={"kafka": kafka, "deletionPolicy": "Delete"})
    pipeline.apply()
    pipeline.approve_deletion()
    cluster.kubectl("-n", namespace, "delete", "slp", pipeline.name, "--wait=false")
    condition = pipeline.wait_condition("Ready", "KafkaUnavailable", deadline=60)
    wait_until(
        lambda: pipeline.conditions()["Ready"]["message"],
        lambda said: "set spec.deletionPolicy to Retain" in said,
        deadline=60,
        what=f"how to let go (was {condition['message']})",
    )
    pipeline.apply(deletionPolicy="Retain")
    wait_until(lambda: not cluster.exists("slp", pipeline.name, namespace), deadline=60, what="the resource to be gone")
    cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")


def test_a_namespace_with_a_delete_policy_can_be_deleted(cluster: Cluster, database_uri: str) -> None:
    """Its Secret goes at the same time; the finalizer does not hang on it."""
    namespace = "e2e-doomed"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.kubectl("-n", namespace, "create", "secret", "generic", "timescaledb", f"--from-literal=uri={database_uri}")
    pipeline = E2EPipeline(cluster, namespace, spec={"deletionPolicy": "Delete"})
    pipeline.apply()
    pipeline.wait_ready()
    pipeline.approve_deletion()
    cluster.kubectl("delete", "namespace", namespace, "--timeout=120s")
    cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")


def kill_operator(cluster: Cluster) -> None:
    """Kill the operator without grace."""
    pods = ("-n", "sensorlog", "delete", "pod", "-l", "app.kubernetes.io/name=sensorlog-operator")
    cluster.kubectl(*pods, "--grace-period=0", "--force", "--wait=false")


def wait_operator(cluster: Cluster) -> None:
    """Wait until the operator runs."""
    cluster.kubectl("-n", "sensorlog", "rollout", "status", "deployment/sensorlog-operator", "--timeout=90s")


@pytest.mark.parametrize("moment", ["at once", "when the schema is there", "when a Deployment is there"])
def test_an_operator_killed_in_mid_change_converges(cluster: Cluster, namespace: str, moment: str) -> None:
    """Whatever was done when it died, the next one finishes."""
    pipeline = E2EPipeline(cluster, namespace, spec={"deletionPolicy": "Delete"})
    pipeline.apply()
    happened = {
        "at once": lambda: True,
        "when the schema is there": lambda: schema_exists(pipeline),
        "when a Deployment is there": lambda: cluster.exists("deployment", "plant-ingest", namespace),
    }[moment]
    wait_until(happened, deadline=60, what=moment)
    kill_operator(cluster)
    wait_operator(cluster)
    pipeline.wait_ready()
    pipeline.approve_deletion()
    pipeline.publish([SEED])
    wait_for_value(pipeline.readings, [SEED], deadline=30, what="the seed reading")
    cluster.kubectl("-n", namespace, "delete", "slp", "plant", "--wait=false")
    kill_operator(cluster)
    wait_until(lambda: not cluster.exists("slp", "plant", namespace), deadline=120, what="the resource to be gone")
    assert not schema_exists(pipeline)


def test_pipelines_outlive_the_operator(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """While it is away data flows and a Retain resource can be deleted; its return restarts nothing."""
    pods = {pod["metadata"]["uid"] for pod in cluster.list("pods", pipeline.namespace)}
    cluster.kubectl("-n", "sensorlog", "scale", "deployment/sensorlog-operator", "--replicas=0")
    try:
        pipeline.publish([SEED])
        wait_for_value(pipeline.readings, [SEED], deadline=30, what="the seed reading")
    finally:
        cluster.kubectl("-n", "sensorlog", "scale", "deployment/sensorlog-operator", "--replicas=1")
        wait_operator(cluster)
    pipeline.wait_ready()
    assert {pod["metadata"]["uid"] for pod in cluster.list("pods", pipeline.namespace)} == pods


def test_the_operator_may_do_what_the_chart_says_and_no_more(cluster: Cluster) -> None:
    """The whole list, as the API server sees it, beyond what everybody may do."""
    rules = json.loads(
        cluster.kubectl(
            *("create", "--as", SERVICE_ACCOUNT, "--as-group", "system:authenticated"),
            *("--raw", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "-f", "-"),
            stdin=json.dumps(
                {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectRulesReview",
                    "spec": {"namespace": "default"},
                }
            ),
        )
    )["status"]["resourceRules"]
    allowed = {
        (group, resource, *rule.get("resourceNames", ()), verb)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group not in ("authorization.k8s.io", "authentication.k8s.io")
    }
    granted = {
        ("sensorlog.dev", "sensorlogpipelines", *(["get", "list", "watch", "patch"])),
        ("sensorlog.dev", "sensorlogpipelines/status", "patch"),
        *(("", kind, "list", "watch", "create", "patch") for kind in ("configmaps", "services", "serviceaccounts")),
        ("policy", "poddisruptionbudgets", "list", "watch", "create", "patch"),
        ("apps", "deployments", "list", "watch", "create", "patch", "delete"),
        ("networking.k8s.io", "networkpolicies", "list", "watch", "create", "patch", "delete"),
        ("autoscaling", "horizontalpodautoscalers", "list", "watch", "create", "patch", "delete"),
        *(
            ("keda.sh", kind, "list", "watch", "create", "patch", "delete")
            for kind in ("scaledobjects", "triggerauthentications")
        ),
        ("", "pods", "list"),
        ("", "secrets", "get", "list", "watch", "create", "patch"),
        ("", "events", "create"),
    }
    expected = {(group, kind, verb) for group, kind, *verbs in granted for verb in verbs}
    rbac, reviewers = "rbac.authorization.k8s.io", "sensorlog-operator-token-reviewers"
    named = {
        ("", "namespaces", "kube-system", "get"),
        (rbac, "clusterrolebindings", reviewers, "get"),  # to which query services with authentication are added
        (rbac, "clusterrolebindings", reviewers, "patch"),
        (rbac, "clusterroles", "sensorlog-operator-token-reviewer", "bind"),
    }
    assert allowed == expected | named


def test_the_operator_was_refused_nothing_and_crashed_never(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """No missing right and no bug shows in its log, no restart in its pod."""
    (pod,) = cluster.list("pods", "sensorlog", "app.kubernetes.io/name=sensorlog-operator")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    log = cluster.kubectl("-n", "sensorlog", "logs", pod["metadata"]["name"])
    trouble = [line for line in log.splitlines() if "Traceback" in line or "is a bug" in line or "forbidden" in line]
    assert trouble == []
    assert f"{pipeline.namespace}/plant" in log


def chart(name: str) -> str:
    """Return the path of a chart."""
    return str(ROOT / "charts" / name)


@pytest.mark.parametrize("name", ["sensorlog", "backing-services"])
def test_charts_lint_and_render_what_the_api_server_takes(cluster: Cluster, name: str) -> None:
    """`helm lint --strict`, and every object passes the server's validation."""
    cluster.run("helm", "lint", "--strict", chart(name))
    namespace = {"sensorlog": "sensorlog", "backing-services": "backing"}[name]
    rendered = cluster.run("helm", "template", "x", chart(name), "-n", namespace)
    crd_is_there = [doc for doc in yaml.safe_load_all(rendered) if doc and doc["kind"] != "CustomResourceDefinition"]
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(crd_is_there))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("sensorlog", "operator.resyncSeconds=never"),
        ("sensorlog", "operator.replicas=2"),
        ("sensorlog", "images.ingest.digest=latest"),
        ("backing-services", "kafka.nonsense=1"),
    ],
)
def test_charts_refuse_values_they_do_not_know(cluster: Cluster, name: str, setting: str) -> None:
    """A typing error in a value is said, not ignored."""
    with pytest.raises(CommandError, match="schema"):
        cluster.run("helm", "template", "x", chart(name), "--set", setting)


@pytest.mark.parametrize("sample", sorted(path.name for path in (ROOT / "k8s/samples").glob("*.yaml")))
def test_samples_are_valid(cluster: Cluster, sample: str) -> None:
    """A user can apply each as it is."""
    cluster.kubectl("apply", "--dry-run=server", "-f", str(ROOT / "k8s/samples" / sample))
