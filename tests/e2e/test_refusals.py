"""Bad input: what the API server refuses, and what becomes a condition with a reason and an Event."""

import re
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
        ({"measurements": [{"name": "a", "min": 2, "max": 1}]}, "min must not be above max"),
        ({"nonsense": True}, 'unknown field "nonsense"'),
    ],
)
def test_an_invalid_resource_is_refused_by_its_field(cluster: Cluster, change: dict[str, Any], said: str) -> None:
    """`kubectl apply` says which field, and nothing is stored; tests/integration/test_operator_resource.py has all."""
    pipeline = E2EPipeline(cluster, "default", "invalid")
    with pytest.raises(CommandError) as refused:
        cluster.apply(pipeline.body(**change))
    assert said in str(refused.value)


def test_a_connection_that_does_not_work_is_a_condition_and_an_event(
    cluster: Cluster, namespace: str, database_uri: str
) -> None:
    """What to do is in `kubectl describe`, the password is not, and no pod is started in vain.

    tests/integration/test_operator_battery.py has every reason.
    """
    reason, password = "DatabaseAuthenticationFailed", "not-this-one"
    cluster.apply(secret(namespace, "other", uri=re.sub(":[^:@]+@", f":{password}@", database_uri)))
    pipeline = E2EPipeline(cluster, namespace, spec={"timescale": {"connectionSecretRef": {"name": "other"}}})
    pipeline.apply()
    try:
        pipeline.wait_condition("SchemaReady", reason)
        pipeline.wait_condition("Ready", reason)
        pipeline.wait_condition("IngestReady", "Waiting")
        described = wait_until(
            lambda: cluster.kubectl("-n", namespace, "describe", "slp"),
            lambda said: re.search(rf"Warning\s+{reason}\s", said) is not None,
            deadline=10,
            what=f"a Warning Event {reason}",
        )
        assert "Correct the Secret's uri" in described
        assert password not in described
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
