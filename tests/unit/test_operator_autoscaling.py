"""Who decides how many pods run, and what is told to those who do."""

import copy
from typing import Any

import pytest

from sensorlog_operator import autoscaling, manifests, workloads
from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import Reason
from sensorlog_operator.kube import FIELD_MANAGER
from support.resources import UID, a_pipeline, mounts, operator_settings

Object = dict[str, Any]
Key = tuple[str, str]

BY_LAG = {"autoscaling": {"minReplicas": 2, "maxReplicas": 4, "lagThreshold": 500}}
BY_LOAD = {"autoscaling": {"minReplicas": 2, "maxReplicas": 8, "targetCPUUtilization": 60}}
SECURED = {
    "bootstrapServers": "a:9093,b:9093",
    "security": {
        "protocol": "SASL_SSL",
        "saslMechanism": "SCRAM-SHA-512",
        "credentialsSecretRef": {"name": "kafka-user"},
        "caSecretRef": {"name": "kafka-ca"},
    },
}


def build(*, keda: bool = True, **spec: Any) -> dict[Key, Object]:
    """Return all that scales or is scaled, by kind and name."""
    pipeline = a_pipeline(**spec)
    children = manifests.build_all(pipeline, operator_settings(), mounts(pipeline), keda=keda)
    children += autoscaling.build(pipeline, keda=keda)
    return {(child["kind"], child["metadata"]["name"]): child for child in children}


def live(children: dict[Key, Object], manager: str = FIELD_MANAGER) -> dict[Key, Object]:
    """Return the children as a cluster would hold them; `manager` is who said how many pods there are."""
    observed: dict[Key, Object] = {}
    for action in workloads.plan(children.values(), {}, UID):
        assert isinstance(action, workloads.ApplyObject)
        child = copy.deepcopy(action.manifest)
        if child["kind"] == "Deployment":
            child["spec"].setdefault("replicas", 1)
            entry = {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
            child["metadata"]["managedFields"] = [entry]
        observed[child["kind"], child["metadata"]["name"]] = child
    return observed


def summaries(children: dict[Key, Object], observed: dict[Key, Object]) -> list[str]:
    """Return the plan in words."""
    return [action.summary for action in workloads.plan(children.values(), observed, UID)]


def replicas(children: dict[Key, Object], component: str) -> int | None:
    """Return what a Deployment's manifest says about its number of pods."""
    value: int | None = children["Deployment", f"plant-{component}"]["spec"].get("replicas")
    return value


def condition(*, keda: bool = True, observed: dict[Key, Object] | None = None, **spec: Any) -> Condition | None:
    """Return AutoscalingReady."""
    return autoscaling.condition(a_pipeline(**spec), observed or {}, keda=keda)


def test_without_autoscaling_nothing_scales() -> None:
    """And no condition speaks of it."""
    children = build()
    assert (replicas(children, "ingest"), replicas(children, "query")) == (1, 1)
    assert not [kind for kind, _ in children if kind in ("HorizontalPodAutoscaler", "ScaledObject")]
    assert condition() is None


def test_who_scales_decides_alone() -> None:
    """The manifests name no number, so what a scaler chose is neither overwritten nor taken for drift."""
    children = build(ingest=BY_LAG, query=BY_LOAD)
    assert (replicas(children, "ingest"), replicas(children, "query")) == (None, None)
    observed = live(children, manager="kube-controller-manager")
    observed["Deployment", "plant-query"]["spec"]["replicas"] = 7
    assert summaries(children, observed) == []


def test_keda_scales_ingest_by_the_lag_of_its_group() -> None:
    """Group and topic are those of the document that ingest reads; the cap is the partitions."""
    children = build(ingest={"autoscaling": {"maxReplicas": 50, "lagThreshold": 500}})
    spec = children["ScaledObject", "plant-ingest"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 6)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "plant-ingest"}
    (trigger,) = spec["triggers"]
    kafka = manifests.pipeline_config(a_pipeline()).kafka
    assert trigger["metadata"] == {
        "bootstrapServers": "kafka:9092",
        "consumerGroup": kafka.group_id,
        "topic": kafka.readings_topic,
        "lagThreshold": "500",
        "offsetResetPolicy": "earliest",
        "version": "2.1.0",
        "sasl": "none",
        "tls": "disable",
    }
    assert "authenticationRef" not in trigger
    assert ("TriggerAuthentication", "plant-ingest") not in children


def test_keda_gets_the_names_of_secrets_and_no_value() -> None:
    """In its own words for each parameter."""
    children = build(ingest=BY_LAG, kafka=SECURED)
    (trigger,) = children["ScaledObject", "plant-ingest"]["spec"]["triggers"]
    assert (trigger["metadata"]["sasl"], trigger["metadata"]["tls"]) == ("scram_sha512", "enable")
    assert trigger["authenticationRef"] == {"name": "plant-ingest"}
    assert children["TriggerAuthentication", "plant-ingest"]["spec"]["secretTargetRef"] == [
        {"parameter": "username", "name": "kafka-user", "key": "username"},
        {"parameter": "password", "name": "kafka-user", "key": "password"},
        {"parameter": "ca", "name": "kafka-ca", "key": "ca.crt"},
    ]


def test_the_query_service_scales_by_load() -> None:
    """An ordinary HorizontalPodAutoscaler of the Deployment."""
    spec = build(query=BY_LOAD)["HorizontalPodAutoscaler", "plant-query"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    (metric,) = spec["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}


@pytest.mark.parametrize(("least", "stays"), [(0, 1), (2, 2), (9, 6)])
def test_without_keda_ingest_stays_at_its_least(least: int, stays: int) -> None:
    """Though never at none, because nobody would wake it; the condition says so and what to do."""
    spec = {"autoscaling": {"minReplicas": least, "maxReplicas": 50}}
    children = build(keda=False, ingest=spec)
    assert replicas(children, "ingest") == stays
    assert ("ScaledObject", "plant-ingest") not in children
    found = condition(keda=False, ingest=spec)
    assert found is not None
    assert (found.status, found.reason) == (False, Reason.KEDA_MISSING)
    assert f"stays at {stays} pods. Install KEDA" in found.message


def test_paused_ingest_has_no_scaler_that_would_wake_it() -> None:
    """And query scales on."""
    children = build(paused=True, ingest=BY_LAG, query=BY_LOAD)
    assert replicas(children, "ingest") == 0
    assert [kind for kind, _ in children if kind in ("HorizontalPodAutoscaler", "ScaledObject")] == [
        "HorizontalPodAutoscaler"
    ]


def test_switching_autoscaling_on_keeps_the_pods_that_run() -> None:
    """The number is handed over before it is no longer named: otherwise the API's default of one would come."""
    observed = live(build(query={"replicas": 5}))
    assert summaries(build(query=BY_LOAD), observed) == [
        "leave the 5 pods of Deployment plant-query to its scaler",
        "update Deployment plant-query",
        "create HorizontalPodAutoscaler plant-query",
    ]


def test_what_a_scaler_owns_is_not_handed_over_again() -> None:
    """An update of something else must not set its number back to one that was seen a moment ago."""
    observed = live(build(query=BY_LOAD), manager="kube-controller-manager")
    changed = build(query={**BY_LOAD, "processes": 2})
    assert summaries(changed, observed) == ["update Deployment plant-query"]


def test_switching_autoscaling_off_removes_the_scaler_first() -> None:
    """Then the resource's number holds again."""
    children = build(ingest={"replicas": 3}, query={"replicas": 3})
    observed = live(build(ingest=BY_LAG, query=BY_LOAD, kafka=SECURED), manager="kube-controller-manager")
    said = summaries(build(ingest={"replicas": 3}, query={"replicas": 3}, kafka=SECURED), observed)
    assert said == [
        "delete HorizontalPodAutoscaler plant-query",
        "delete TriggerAuthentication plant-ingest",
        "delete ScaledObject plant-ingest",
        "update Deployment plant-ingest",
        "update Deployment plant-query",
    ]
    assert (replicas(children, "ingest"), replicas(children, "query")) == (3, 3)


def test_a_scaler_of_somebody_else_is_left_alone() -> None:
    """People may scale by their own means, with our labels copied from somewhere."""
    observed = live(build(query=BY_LOAD))
    observed["HorizontalPodAutoscaler", "plant-query"]["metadata"]["ownerReferences"] = []
    assert summaries(build(), observed) == ["update Deployment plant-query"]


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    """KEDA holds a ScaledObject until it has cleaned up."""
    observed = live(build(query=BY_LOAD))
    observed["HorizontalPodAutoscaler", "plant-query"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert summaries(build(), observed) == ["update Deployment plant-query"]


def test_a_number_that_has_no_effect_is_told() -> None:
    """It is kept for when the scaler goes, so it is no mistake; but nobody should wait for it."""
    found = condition(query={**BY_LOAD, "replicas": 5})
    assert found is not None
    assert found.message == "Query: 2 to 8 pods. spec.query.replicas (5) has no effect meanwhile."


def test_the_condition_tells_the_bounds() -> None:
    """With why ingest has less than was asked for."""
    found = condition(ingest={"autoscaling": {"maxReplicas": 50}}, query=BY_LOAD)
    assert found is not None
    assert found.status is True
    assert found.message == (
        "Ingest: 1 to 6 pods (maxReplicas 50 is more than there are partitions). Query: 2 to 8 pods."
    )


@pytest.mark.parametrize(
    ("spec", "scaler", "complaint"),
    [
        ({"ingest": BY_LAG}, ("ScaledObject", "plant-ingest"), ("Ready", "ScaledObjectCheckFailed", "no broker")),
        (
            {"query": BY_LOAD},
            ("HorizontalPodAutoscaler", "plant-query"),
            ("ScalingActive", "FailedGetResourceMetric", "no metrics"),
        ),
    ],
)
def test_a_scaler_that_cannot_scale_is_heard(spec: Any, scaler: Key, complaint: tuple[str, str, str]) -> None:
    """The condition repeats its words."""
    kind, reason, message = complaint
    entry = {"type": kind, "status": "False", "reason": reason, "message": message}
    found = condition(observed={scaler: {"status": {"conditions": [entry]}}}, **spec)
    assert found is not None
    assert (found.status, found.reason) == (False, Reason.SCALER_FAILING)
    assert found.message.endswith(f"{reason}: {message}")


def test_pods_are_spread_over_zones_and_nodes() -> None:
    """Those of each template by themselves, so that a rollout does not pile them up."""
    pod = build()["Deployment", "plant-query"]["spec"]["template"]["spec"]
    spread = pod["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {tuple(one["matchLabelKeys"]) for one in spread} == {("pod-template-hash",)}
