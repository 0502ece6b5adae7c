"""Data in, data out, on a real cluster, as a user does it."""

import json

import pytest

from support.cluster import Cluster, E2EPipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}


def test_a_reading_comes_back_over_grpc(pipeline: E2EPipeline) -> None:
    """The seed message returns with temperature 30 and cpu 20."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.readings, [SEED], deadline=30, what="the seed reading")


def test_kubectl_get_shows_what_matters(pipeline: E2EPipeline) -> None:
    """The printer columns are filled in."""
    pipeline.publish([SEED])
    wait_for_value(lambda: pipeline.get()["status"]["lag"], 0, deadline=30, what="the lag")
    header, row = pipeline.cluster.kubectl("-n", pipeline.namespace, "get", "slp").splitlines()
    assert header.split() == ["NAME", "READY", "TOPIC", "INGEST", "QUERY", "LAG", "AGE"]
    assert row.split()[:7] == ["plant", "True", pipeline.topic, "(2)", "1/1", "1/1", "0"]


def test_status_says_that_all_is_well(pipeline: E2EPipeline) -> None:
    """`sensorlog status` exits 0 for a pipeline that is ready."""
    page = json.loads(
        pipeline.cluster.run("sensorlog", "status", pipeline.name, "-n", pipeline.namespace, "-o", "json")
    )
    assert "plant" in json.dumps(page)


def test_ingest_killed_in_mid_stream_loses_and_doubles_nothing(pipeline: E2EPipeline) -> None:
    """Pods are killed without grace while readings arrive; every reading is there once."""
    total, part = 20_000, 5_000
    for start in range(0, total, part):
        pipeline.publish([{"ts": 1_700_000_000 + n, "sensor_id": n % 7} for n in range(start, start + part)])
        pipeline.cluster.kubectl(
            *("-n", pipeline.namespace, "delete", "pod", "-l", "app.kubernetes.io/component=ingest"),
            *("--grace-period=0", "--force", "--wait=false"),
        )
        pipeline.cluster.kubectl(
            "-n", pipeline.namespace, "rollout", "status", "deployment/plant-ingest", "--timeout=60s"
        )
    wait_for_value(pipeline.stored, total, deadline=60, what="rows")
    distinct = pipeline.cluster.psql(f"SELECT count(DISTINCT (time, sensor_id)) FROM {pipeline.schema}.sensor_data")
    assert int(distinct) == total


def test_paused_keeps_readings_in_the_topic(pipeline: E2EPipeline) -> None:
    """They are written once it is resumed; queries work meanwhile."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    pipeline.apply(paused=True)
    pipeline.wait_condition("IngestReady", "Paused")
    wait_until(
        lambda: pipeline.deployment("ingest").get("status", {}).get("replicas", 0),
        lambda n: n == 0,
        deadline=60,
        what="no ingest pod",
    )
    assert pipeline.readings() == [SEED]
    pipeline.apply(paused=False)
    pipeline.wait_ready()
    pipeline.publish([{**SEED, "sensor_id": 2}])
    wait_for_value(pipeline.stored, 2, deadline=30, what="rows")


def test_an_outage_of_the_database_is_shown_and_survived(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """The condition names the database while it is away; nothing is lost."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    cluster.kubectl("-n", "backing", "scale", "statefulset/timescaledb", "--replicas=0")
    try:
        pipeline.wait_condition("SchemaReady", "DatabaseUnavailable", deadline=90)
        wait_until(
            lambda: pipeline.deployment("ingest").get("status", {}).get("readyReplicas", 0),
            lambda n: n == 0,
            deadline=60,
            what="ingest to say that it waits",
        )
        pipeline.publish([{**SEED, "sensor_id": 2}])
        restarts = [
            status["restartCount"]
            for pod in cluster.list("pods", pipeline.namespace)
            for status in pod["status"].get("containerStatuses", [])
        ]
        assert restarts == [0, 0]
    finally:
        cluster.kubectl("-n", "backing", "scale", "statefulset/timescaledb", "--replicas=1")
        cluster.kubectl("-n", "backing", "rollout", "status", "statefulset/timescaledb", "--timeout=120s")
    pipeline.wait_ready()
    wait_for_value(pipeline.stored, 2, deadline=60, what="rows")
