"""A resource that changes, and a world that is changed by hand."""

import json
from typing import Any

import pytest

from sensorlog_operator.manifests import CONFIG_CHECKSUM
from support.cluster import Cluster, E2EPipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

SEED: dict[str, Any] = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}


def test_a_new_measurement_is_stored_after_its_rollout(pipeline: E2EPipeline) -> None:
    """Column first, then the pods that write and read it; what was stored before is still there."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    measurements = [{"name": "temperature"}, {"name": "cpu"}, {"name": "humidity", "unit": "%"}]
    pipeline.apply(measurements=measurements)
    pipeline.wait_ready()
    later = {**SEED, "ts": SEED["ts"] + 1, "humidity": 55.5}
    pipeline.publish([later])
    wait_for_value(pipeline.readings, [SEED, later], deadline=30, what="both readings")


def test_more_replicas_and_partitions(pipeline: E2EPipeline) -> None:
    """The topic grows, the Deployments follow, status tells."""
    pipeline.apply(kafka={"readings": {"partitions": 4}}, ingest={"replicas": 2}, query={"replicas": 2})
    pipeline.wait_ready()
    status = pipeline.get()["status"]
    assert (status["topic"], status["ingest"], status["query"]) == (f"{pipeline.topic} (4)", "2/2", "2/2")


def test_fewer_partitions_are_refused_and_the_pipeline_goes_on(pipeline: E2EPipeline) -> None:
    """The condition names the field; readings still arrive; setting it back heals."""
    pipeline.apply(kafka={"readings": {"partitions": 1}})
    condition = pipeline.wait_condition("TopicReady", "PartitionsCannotShrink")
    assert "Set spec.kafka.readings.partitions to 2 or more" in condition["message"]
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    pipeline.apply(kafka={"readings": {"partitions": 2}})
    pipeline.wait_ready()


def test_a_changed_secret_rolls_the_pods_once(cluster: Cluster, pipeline: E2EPipeline, database_uri: str) -> None:
    """The checksum in the pod template follows the credentials."""

    def checksum() -> str:
        return str(pipeline.deployment("ingest")["spec"]["template"]["metadata"]["annotations"][CONFIG_CHECKSUM])

    before = checksum()
    patch = json.dumps({"stringData": {"uri": f"{database_uri}?application_name=rotated"}})
    cluster.kubectl("-n", pipeline.namespace, "patch", "secret", "timescaledb", "-p", patch)
    wait_until(checksum, lambda now: now != before, deadline=30, what="another checksum")
    pipeline.wait_ready()
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("deployment", "plant-ingest"),
        ("deployment", "plant-query"),
        ("service", "plant-query"),
        ("configmap", "plant-pipeline"),
        ("serviceaccount", "plant-query"),
        ("poddisruptionbudget", "plant-ingest"),
        ("networkpolicy", "plant-query"),
    ],
)
def test_a_deleted_child_comes_back(shared: E2EPipeline, kind: str, name: str) -> None:
    """By the watch, within moments."""
    uid = shared.cluster.get(kind, name, shared.namespace)["metadata"]["uid"]
    shared.cluster.kubectl("-n", shared.namespace, "delete", kind, name, "--wait=true")
    wait_until(
        lambda: shared.cluster.get(kind, name, shared.namespace)["metadata"]["uid"],
        lambda now: now != uid,
        deadline=30,
        what=f"another {kind} {name}",
    )
    shared.wait_ready()


def test_children_changed_by_hand_are_set_back(shared: E2EPipeline) -> None:
    """And an Event says what was repaired."""
    kubectl, namespace = shared.cluster.kubectl, shared.namespace
    kubectl("-n", namespace, "set", "env", "deployment/plant-query", "INTRUDER=1")
    kubectl("-n", namespace, "patch", "service", "plant-query", "-p", '{"spec":{"selector":{"intruder":"1"}}}')
    kubectl("-n", namespace, "patch", "configmap", "plant-pipeline", "-p", '{"data":{"pipeline.json":"{}"}}')

    def strangers() -> str:
        seen = kubectl("-n", namespace, "get", "deployment,service,configmap", "-o", "yaml").lower()
        config = shared.cluster.get("configmap", "plant-pipeline", namespace)["data"]["pipeline.json"]
        return "intruder" if "intruder" in seen else config

    wait_until(strangers, lambda seen: "bootstrapServers" in seen, deadline=30, what="the intruder to go")
    assert any("was changed by hand" in event["message"] for event in shared.events())
    shared.wait_ready()


@pytest.mark.parametrize(
    ("drift", "question", "answer"),
    [
        (
            "DROP INDEX {0}.sensor_data_sensor_id_time_idx",
            "SELECT count(*) FROM pg_indexes WHERE schemaname = '{0}' AND tablename = 'sensor_data'",
            "1",
        ),
        (
            "DROP TABLE {0}.sensors",
            "SELECT count(*) FROM pg_tables WHERE schemaname = '{0}' AND tablename = 'sensors'",
            "1",
        ),
        (
            "COMMENT ON SCHEMA {0} IS NULL",
            "SELECT obj_description('{0}'::regnamespace) LIKE '%sensorlog.dev/owner%'",
            "t",
        ),
    ],
    ids=["index", "table", "owner"],
)
def test_a_schema_changed_by_hand_is_repaired_on_resync(
    shared: E2EPipeline, drift: str, question: str, answer: str
) -> None:
    """No watch shows it; the resync finds it."""
    psql = shared.cluster.psql
    psql(drift.format(shared.schema))
    wait_for_value(lambda: psql(question.format(shared.schema)), answer, deadline=45, what=question)
    shared.wait_ready()


def test_a_topic_configuration_changed_by_hand_is_set_back(shared: E2EPipeline) -> None:
    """Also found by the resync."""
    tool = ("-n", "backing", "exec", "kafka-0", "--", "java", "-cp", "/opt/kafka/libs/*")
    admin = ("kafka.admin.ConfigCommand", "--bootstrap-server", "kafka.backing.svc:9092", "--topic", shared.topic)
    shared.cluster.kubectl(*tool, *admin, "--alter", "--add-config", "retention.ms=1234567")
    wait_until(
        shared.events,
        lambda events: any("retention.ms from 1234567 to 604800000" in e["message"] for e in events),
        deadline=60,
        what="the repair's Event",
    )
