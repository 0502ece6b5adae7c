"""What changes pods while data flows: no query fails, no reading is lost or doubled."""

import json

import pytest

from sensorlog_operator.models import ROTATE_CREDENTIALS
from support import traffic
from support.cluster import Cluster, E2EPipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

KINDS = {"steady", "balancing", "fresh"}
"""How tests/e2e/traffic/caller.py calls: on one connection, on one to each pod in turn, on a new one each time."""


def image(cluster: Cluster, service: str) -> str:
    """Return the image that the operator gives a service's pods."""
    deployment = cluster.get("deployment", "sensorlog-operator", "sensorlog")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(str(v["value"]) for v in environment if v["name"] == f"SENSORLOG_{service.upper()}_IMAGE")


def start_traffic(pipeline: E2EPipeline) -> tuple[traffic.Traffic, traffic.Traffic]:
    """Start to send readings and to ask for them; return who sends and who asks."""
    cluster, namespace = pipeline.cluster, pipeline.namespace
    brokers = pipeline.body()["spec"]["kafka"]["bootstrapServers"]
    publisher = traffic.start(cluster, namespace, "publisher", image(cluster, "ingest"), brokers, pipeline.topic)
    services = [f"{pipeline.name}-{name}.{namespace}.svc:50051" for name in ("query", "query-pods")]
    caller = traffic.start(cluster, namespace, "caller", image(cluster, "query"), *services)
    return publisher.wait_running(), caller.wait_running()


def ending(pipeline: E2EPipeline) -> list[str]:
    """Return the names of the pods that are being deleted."""
    pods = [pod["metadata"] for pod in pipeline.cluster.list("pods", pipeline.namespace)]
    return [metadata["name"] for metadata in pods if "deletionTimestamp" in metadata]


def assert_nothing_happened(pipeline: E2EPipeline, publisher: traffic.Traffic, caller: traffic.Traffic) -> None:
    """See that every call was answered until the last old pod was gone, and that every reading is stored once."""
    wait_until(lambda: ending(pipeline), lambda names: not names, deadline=120, what="the old pods to end")
    asked, sent = caller.finish(), publisher.finish()["sent"]
    assert asked["failures"] == []
    assert asked["calls"].keys() == KINDS
    assert min(asked["calls"].values()) > 100
    assert sent > 1000
    wait_for_value(pipeline.stored, sent, deadline=60, what="readings stored")
    distinct = pipeline.cluster.psql(f"SELECT count(DISTINCT (time, sensor_id)) FROM {pipeline.schema}.sensor_data")
    assert int(distinct) == sent
    assert pipeline.cluster.psql(f"SELECT count(*) FROM {pipeline.schema}.dead_letters") == "0"


def templates(pipeline: E2EPipeline) -> list[str]:
    """Return what each component's pods are made of."""
    return [json.dumps(pipeline.deployment(name)["spec"]["template"]) for name in ("ingest", "query")]


def wait_for_change(pipeline: E2EPipeline, before: list[str]) -> None:
    """Wait until both templates are others than before."""
    wait_until(
        lambda: templates(pipeline),
        lambda now: all(new != old for new, old in zip(now, before, strict=True)),
        deadline=60,
        what="both templates to change",
    )


def test_a_rollout_fails_no_query_and_loses_or_doubles_no_reading(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """Every pod of both components is replaced, twice, under traffic."""
    pipeline.apply(kafka={"readings": {"partitions": 4}}, ingest={"replicas": 2}, query={"replicas": 2})
    pipeline.wait_ready()
    publisher, caller = start_traffic(pipeline)
    for delay in ("200ms", "300ms"):
        before = templates(pipeline)
        pipeline.apply(ingest={"batch": {"maxDelay": delay}})
        wait_for_change(pipeline, before)
        pipeline.wait_ready()
    assert cluster.list("poddisruptionbudgets", pipeline.namespace)
    assert_nothing_happened(pipeline, publisher, caller)


def test_scaling_fails_no_query_and_loses_or_doubles_no_reading(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """Up by kubectl scale and by the resource, and down again."""
    pipeline.apply(kafka={"readings": {"partitions": 4}}, query={"replicas": 2})
    pipeline.wait_ready()
    publisher, caller = start_traffic(pipeline)
    cluster.kubectl("-n", pipeline.namespace, "scale", "slp", pipeline.name, "--replicas=3")
    wait_for_value(lambda: pipeline.get()["status"]["ingest"], "3/3", deadline=90, what="ingest")
    pipeline.apply(ingest={"replicas": 1}, query={"replicas": 3})
    wait_for_value(lambda: pipeline.get()["status"]["query"], "3/3", deadline=90, what="query")
    pipeline.apply(query={"replicas": 1})
    pipeline.wait_ready()
    assert_nothing_happened(pipeline, publisher, caller)


def test_new_passwords_fail_no_query_and_lose_or_double_no_reading(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """Every pod goes over to another login of the database; then the one before is shut out."""
    publisher, caller = start_traffic(pipeline)
    before = templates(pipeline)
    cluster.kubectl("-n", pipeline.namespace, "annotate", "slp", pipeline.name, f"{ROTATE_CREDENTIALS}=now")
    wait_for_change(pipeline, before)
    wait_until(
        lambda: pipeline.get()["status"].get("credentials", {}).get("request") == "now",
        deadline=300,  # every pod is replaced, and drains, before the login that it used is shut out
        what="the rotation to be done",
    )
    pipeline.wait_ready()
    assert_nothing_happened(pipeline, publisher, caller)
    logins = cluster.psql(f"SELECT count(*) FROM pg_roles WHERE rolcanlogin AND rolname LIKE '{pipeline.schema}%'")
    assert logins == "2"
