"""What the chart installs, as Helm renders it."""

from typing import Any

import pytest

from support.apiserver import Object
from support.cluster import CommandError
from support.operated import rendered

pytestmark = pytest.mark.integration

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def kinds(documents: list[Object]) -> set[str]:
    """Return the kinds of objects."""
    return {document["kind"] for document in documents}


def operator_pod(*options: str) -> dict[str, Any]:
    """Return the spec of the operator's pod."""
    (deployment,) = (d for d in rendered(*options) if d["kind"] == "Deployment")
    return dict(deployment["spec"]["template"]["spec"])


def test_images_are_pinned_by_digest_where_one_is_given() -> None:
    """The operator's own, and those that it gives to pods."""
    digests = [f"images.{name}.digest={DIGEST}" for name in ("operator", "ingest", "query")]
    (container,) = operator_pod("--set", ",".join(digests))["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert container["image"] == f"sensorlog/operator@{DIGEST}"
    assert environment["SENSORLOG_INGEST_IMAGE"] == f"sensorlog/ingest@{DIGEST}"
    assert environment["SENSORLOG_QUERY_IMAGE"] == f"sensorlog/query@{DIGEST}"


def test_secrets_to_pull_with_go_to_the_operators_pod_and_to_those_of_pipelines() -> None:
    """By name: each namespace has its own."""
    pod = operator_pod("--set", "imagePullSecrets[0].name=a,imagePullSecrets[1].name=b")
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert {"name": "SENSORLOG_IMAGE_PULL_SECRETS", "value": "a,b"} in pod["containers"][0]["env"]
    assert "imagePullSecrets" not in operator_pod()


def test_the_operators_pod_has_what_is_added_to_it() -> None:
    """Of two that say different things the chart keeps its labels, which the Deployment selects by, and not more."""
    name, scrape = r"app\.kubernetes\.io/name", r"prometheus\.io/scrape"
    added = ("team=a", f"{name}=other")
    options = [
        f"operator.{part}" for part in (*(f"podLabels.{label}" for label in added), f"podAnnotations.{scrape}=no")
    ]
    setting = {"name": "SENSORLOG_STUCK_SECONDS", "value": "600"}
    extra = [f"operator.extraEnv[0].{key}={value}" for key, value in setting.items()]
    (deployment,) = (d for d in rendered("--set-string", ",".join([*options, *extra])) if d["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert labels["team"] == "a"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert template["metadata"]["annotations"]["prometheus.io/scrape"] == "no"
    assert setting in template["spec"]["containers"][0]["env"]


def test_the_operators_pod_is_restricted() -> None:
    """As the restricted Pod Security Standard demands, with a read-only root."""
    pod = operator_pod()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("watched", [[], ["a", "b"]])
def test_what_uninstalling_does_last_runs_as_the_operators_image_and_looks_where_it_looked(watched: list[str]) -> None:
    """After the operator is gone, not before; its own rights go with it."""
    chosen = ("--set", f"watchNamespaces={{{','.join(watched)}}}") if watched else ()
    pulled = ("--set", f"images.operator.digest={DIGEST},imagePullSecrets[0].name=a")
    hooks = [d for d in rendered(*chosen, *pulled) if "helm.sh/hook" in d["metadata"].get("annotations", {})]
    assert {d["metadata"]["annotations"]["helm.sh/hook"] for d in hooks} == {"post-delete"}
    (job,) = (d for d in hooks if d["kind"] == "Job")
    assert all("hook-succeeded" in d["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for d in hooks)
    pod, operator = job["spec"]["template"]["spec"], operator_pod(*chosen, *pulled)
    for key in ("securityContext", "imagePullSecrets"):
        assert pod[key] == operator[key]
    for key in ("image", "securityContext", "resources"):
        assert pod["containers"][0][key] == operator["containers"][0][key]
    assert pod["containers"][0]["args"] == watched
    scopes = sorted(d["metadata"].get("namespace", "") for d in hooks if d["kind"].endswith("RoleBinding"))
    assert scopes == (watched or [""])


def test_chosen_namespaces_need_nothing_of_the_whole_cluster() -> None:
    """Nobody but who may install the CRD needs rights beyond them."""
    found = rendered("--set", "watchNamespaces={a,b}", "--set", "crd.install=false")
    assert not {kind for kind in kinds(found) if kind.startswith(("Cluster", "CustomResource"))}
    assert {d["metadata"]["namespace"] for d in found if d["kind"] == "RoleBinding"} == {"a", "b", "sensorlog"}


def test_monitoring_is_off_until_asked_for() -> None:
    """Its kinds exist only where the Prometheus operator does."""
    monitoring = {"PodMonitor", "PrometheusRule"}
    assert not kinds(rendered()) & (monitoring | {"ConfigMap"})
    parts = ("podMonitors", "alerts", "dashboards")
    found = rendered("--set", ",".join(f"monitoring.{part}.enabled=true" for part in parts))
    assert kinds(found) >= monitoring
    boards = [d for d in found if d["kind"] == "ConfigMap"]
    assert [d["metadata"]["labels"]["grafana_dashboard"] for d in boards] == ["1", "1"]
    (rule,) = (d for d in found if d["kind"] == "PrometheusRule")
    assert "{{ $labels.namespace }}" in str(rule["spec"])


def test_monitoring_scrapes_what_the_operator_watches() -> None:
    """Pods in other namespaces are no matter of this release."""
    options = ("--set", "monitoring.podMonitors.enabled=true", "--set", "watchNamespaces={a}")
    selectors = [d["spec"].get("namespaceSelector") for d in rendered(*options) if d["kind"] == "PodMonitor"]
    assert selectors == [None, {"matchNames": ["a"]}]


@pytest.mark.parametrize(
    "option",
    [
        "watchNamespaces={A}",
        "images.query.digest=latest",
        "images.query.digest=sha256:0123",
        "imagePullSecrets[0].name=A",
        "monitoring.alert.enabled=true",
        "monitoring.alerts.interval=30s",
        "monitoring.podMonitors.interval=0s",
        "networkPolicy.monitoring[0].cidr=10.0.0.0/8",
        "operator.workers=0",
        "operator.extraEnv[0].value=1",
    ],
)
def test_values_that_make_no_sense_are_refused(option: str) -> None:
    """By the chart's schema, before anything is installed."""
    with pytest.raises(CommandError):
        rendered("--set", option)
