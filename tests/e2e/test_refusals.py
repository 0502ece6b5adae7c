"""Bad input: what the API server refuses, and what becomes a condition with a reason and an Event."""

from typing import Any

import pytest

from support.cluster import Cluster, CommandError, E2EPipeline, secret
from support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kafka": {"bootstrapServers": "kafka"}}, "spec.kafka.bootstrapServers"),
        ({"kafka": {"bootstrapServers": None}}, 'missing required field "bootstrapServers"'),
        ({"kafka": {"readings": {"partitions": 0}}}, "spec.kafka.readings.partitions"),
        ({"kafka": {"readings": {"topic": "no spaces"}}}, "spec.kafka.readings.topic"),
        ({"kafka": {"readings": {"topic": "t"}, "sensors": {"topic": "t"}}}, "must differ"),
        ({"kafka": {"readings": {"retention": "1 week"}}}, "spec.kafka.readings.retention"),
        ({"kafka": {"security": {"protocol": "SASL_SSL"}}}, "saslMechanism goes with protocol"),
        ({"timescale": {"connectionSecretRef": None}}, 'missing required field "connectionSecretRef"'),
        ({"timescale": {"schema": "Robert'); DROP TABLE"}}, "spec.timescale.schema"),
        ({"timestampUnit": "hours"}, "spec.timestampUnit"),
        ({"measurements": []}, "spec.measurements"),
        ({"measurements": [{"name": "Temp"}]}, "spec.measurements[0].name"),
        ({"measurements": [{"name": "ts"}]}, "name is a part of every reading"),
        ({"measurements": [{"name": "a", "min": 2, "max": 1}]}, "min must not be above max"),
        ({"measurements": [{"name": "a"}, {"name": "a"}]}, "Duplicate value"),
        ({"ingest": {"replicas": -1}}, "spec.ingest.replicas"),
        ({"ingest": {"batch": {"maxDelay": "fast"}}}, "spec.ingest.batch.maxDelay"),
        ({"query": {"replicaFallback": "Primary"}}, "needs timescale.readConnectionSecretRef"),
        ({"deletionPolicy": "Maybe"}, "spec.deletionPolicy"),
        ({"nonsense": True}, 'unknown field "nonsense"'),
    ],
)
def test_an_invalid_resource_is_refused_by_its_field(cluster: Cluster, change: dict[str, Any], said: str) -> None:
    """`kubectl apply` says which field, and nothing is stored."""
    pipeline = E2EPipeline(cluster, "default", "invalid")
    with pytest.raises(CommandError) as refused:
        cluster.apply(pipeline.body(**change))
    assert said in str(refused.value)


def test_a_name_that_makes_no_service_is_refused(cluster: Cluster) -> None:
    """The children's names derive from it."""
    with pytest.raises(CommandError, match="must be at most 52"):
        cluster.apply(E2EPipeline(cluster, "default", "9lives").body())


@pytest.mark.parametrize(
    "change",
    [
        {"kafka": {"readings": {"topic": "another"}}},
        {"kafka": {"sensors": {"topic": "another"}}},
        {"timescale": {"schema": "another"}},
        {"timestampUnit": "ms"},
    ],
)
def test_what_cannot_change_is_refused(cluster: Cluster, namespace: str, change: dict[str, Any]) -> None:
    """The message says to create another pipeline instead."""
    # Paused by a Secret that is not there: nothing needs to run for the API server to refuse.
    pipeline = E2EPipeline(cluster, namespace, spec={"timescale": {"connectionSecretRef": {"name": "none"}}})
    pipeline.apply()
    try:
        with pytest.raises(CommandError, match="cannot be changed after creation"):
            pipeline.apply(**change)
    finally:
        pipeline.delete()


CONNECTIONS = [
    ({"connectionSecretRef": {"name": "missing"}}, {}, ("SecretNotFound", "Create it with key 'uri'")),
    ({"connectionSecretRef": {"name": "other"}}, {"url": "x"}, ("SecretKeyMissing", "it has url")),
    ({"connectionSecretRef": {"name": "other"}}, {"uri": "nonsense"}, ("ConnectionUriInvalid", "postgresql://")),
    (
        {"connectionSecretRef": {"name": "other"}},
        {"uri": "postgresql://sensorlog:wrong@timescaledb.backing.svc:5432/sensorlog"},
        ("DatabaseAuthenticationFailed", "Correct the Secret's uri"),
    ),
    (
        {"connectionSecretRef": {"name": "other"}},
        {"uri": "postgresql://sensorlog:x@nowhere.backing.svc:5432/sensorlog"},
        ("DatabaseUnavailable", "the operator keeps trying"),
    ),
]


@pytest.mark.parametrize(("timescale", "data", "expected"), CONNECTIONS, ids=[c[2][0] for c in CONNECTIONS])
def test_a_connection_that_does_not_work_is_a_condition_and_an_event(
    cluster: Cluster, namespace: str, timescale: dict[str, Any], data: dict[str, str], expected: tuple[str, str]
) -> None:
    """Each has a reason of its own, what to do, and a Warning in `kubectl describe`; no pod is started in vain."""
    reason, said = expected
    if data:
        cluster.apply(secret(namespace, "other", **data))
    pipeline = E2EPipeline(cluster, namespace, spec={"timescale": timescale})
    pipeline.apply()
    try:
        assert said in pipeline.wait_condition("SchemaReady", reason)["message"]
        pipeline.wait_condition("Ready", reason)
        pipeline.wait_condition("IngestReady", "Waiting")
        wait_until(
            pipeline.events,
            lambda events: any(e["reason"] == reason and e["type"] == "Warning" for e in events),
            deadline=10,
            what=f"a Warning Event {reason}",
        )
        assert "wrong" not in cluster.kubectl("-n", namespace, "describe", "slp").replace("is wrong", "")
        assert not cluster.exists("deployment", "plant-ingest", namespace)
    finally:
        pipeline.delete()


def test_a_broker_that_is_away_is_a_condition(cluster: Cluster, namespace: str) -> None:
    """The schema is made all the same."""
    pipeline = E2EPipeline(cluster, namespace, spec={"kafka": {"bootstrapServers": "nowhere.backing.svc:9092"}})
    pipeline.apply()
    try:
        assert "keeps trying" in pipeline.wait_condition("TopicReady", "KafkaUnavailable")["message"]
        pipeline.wait_condition("SchemaReady", "Ready", status="True")
    finally:
        pipeline.delete()
        cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")


def test_a_secret_that_appears_is_noticed_at_once(cluster: Cluster, namespace: str, database_uri: str) -> None:
    """Nobody needs to touch the resource."""
    pipeline = E2EPipeline(cluster, namespace, spec={"timescale": {"connectionSecretRef": {"name": "late"}}})
    pipeline.apply()
    try:
        pipeline.wait_condition("SchemaReady", "SecretNotFound")
        cluster.apply(secret(namespace, "late", uri=database_uri))
        pipeline.wait_ready()
    finally:
        pipeline.delete()
        cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")


def test_the_topic_of_an_older_pipeline_is_not_shared(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """The younger says who has it, runs nothing, and gets it when the older goes."""
    younger = E2EPipeline(cluster, pipeline.namespace, "younger")
    younger.apply()
    try:
        condition = younger.wait_condition("TopicReady", "TopicOwnedByAnotherPipeline")
        assert f"{pipeline.namespace}/plant" in condition["message"]
        assert not cluster.exists("deployment", "younger-ingest", pipeline.namespace)
        assert pipeline.conditions()["Ready"]["status"] == "True"
        pipeline.delete()
        younger.wait_ready()
    finally:
        younger.delete()
        cluster.psql(f"DROP SCHEMA IF EXISTS {younger.schema} CASCADE")


def test_the_schema_of_another_pipeline_is_not_shared(cluster: Cluster, pipeline: E2EPipeline) -> None:
    """The message says whose it is."""
    thief = E2EPipeline(
        cluster,
        pipeline.namespace,
        "thief",
        {
            "kafka": {"readings": {"topic": f"{pipeline.topic}.thief"}, "sensors": {"topic": f"{pipeline.topic}.s"}},
            "timescale": {"schema": pipeline.schema},
        },
    )
    thief.apply()
    try:
        condition = thief.wait_condition("SchemaReady", "SchemaOwnedByAnotherPipeline")
        assert f"{pipeline.namespace}/plant" in condition["message"]
        assert not cluster.exists("deployment", "thief-ingest", pipeline.namespace)
    finally:
        thief.delete()
