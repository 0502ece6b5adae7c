"""The plan of topics, and whose topic it is. No broker is needed to plan."""

from dataclasses import replace

import pytest

from sensorlog_operator import topics
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.errors import Reason
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.topics import DesiredTopic, ObservedTopic
from support.resources import a_pipeline

READINGS = DesiredTopic("readings", 6, 1, {"retention.ms": "604800000"}, "spec.kafka.readings")
AS_DECLARED = ObservedTopic(6, 1, {"retention.ms": "604800000", "cleanup.policy": "delete"})


def plan(observed: ObservedTopic | None) -> list[Action]:
    """Return the plan for the one topic."""
    return topics.plan([READINGS], {"readings": observed} if observed else {})


def test_nothing_is_planned_for_a_topic_as_declared() -> None:
    """Configurations that the resource does not declare are the Kafka administrator's."""
    assert plan(AS_DECLARED) == []


def test_a_missing_topic_is_created() -> None:
    """With everything it declares."""
    assert [type(action) for action in plan(None)] == [topics.CreateTopic]


def test_partitions_grow() -> None:
    """Kafka can add partitions."""
    (action,) = plan(replace(AS_DECLARED, partitions=3))
    assert action.summary == "grow topic readings from 3 to 6 partitions"


def test_partitions_do_not_shrink() -> None:
    """The refusal names the field; what exists goes on working."""
    (action,) = plan(replace(AS_DECLARED, partitions=12))
    assert isinstance(action, Refusal)
    assert (action.reason, action.blocking) == (Reason.PARTITIONS_CANNOT_SHRINK, False)
    assert "Set spec.kafka.readings.partitions to 12 or more" in action.summary


def test_replication_factor_is_left_to_kafkas_tools() -> None:
    """And everything else is still planned."""
    refused, altered = plan(replace(AS_DECLARED, replication_factor=3, config={"retention.ms": "1"}))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.REPLICATION_FACTOR_CANNOT_CHANGE
    assert altered.summary == "set retention.ms from 1 to 604800000 on topic readings"


@pytest.mark.parametrize(
    ("observed", "dangerous"),
    [
        (replace(AS_DECLARED, partitions=3), True),
        (replace(AS_DECLARED, config={"retention.ms": "-1"}), True),
        (replace(AS_DECLARED, config={"retention.ms": "1209600000"}), True),
        (replace(AS_DECLARED, config={"retention.ms": "1"}), False),
    ],
    ids=["fewer partitions", "kept for ever", "kept longer", "kept shorter"],
)
def test_of_a_topic_that_was_there_before_nothing_is_changed_for_good(
    observed: ObservedTopic, *, dangerous: bool
) -> None:
    """Who made it may need its partitions and its messages; of a topic of our own the resource decides."""
    (adopting,) = topics.plan([READINGS], {"readings": observed}, adopting=True)
    (own,) = plan(observed)
    assert (adopting.dangerous, own.dangerous) == (dangerous, False)
    assert bool(adopting.risk) is dangerous


@pytest.mark.parametrize("value", ["forever", ""])
def test_a_retention_that_is_no_number_is_left_to_the_brokers(value: str) -> None:
    """They say what is wrong with it: an older CRD let it through."""
    wanted = replace(READINGS, config={"retention.ms": value})
    (altered,) = topics.plan([wanted], {"readings": AS_DECLARED})
    assert altered.summary == f"set retention.ms from 604800000 to {value} on topic readings"


def test_retention_is_a_configuration_of_the_topic() -> None:
    """`retention: 7d` is retention.ms; config can override it."""
    readings, _ = topics.desired(a_pipeline())
    assert readings.config == {"retention.ms": "604800000"}


def claim(name: str, created: str, topic: str = "t", brokers: str = "kafka:9092", cluster_id: str = "") -> Claim:
    """Return the claim of a pipeline called `name`."""
    return Claim(name, f"uid-{name}", created, frozenset(brokers.split(",")), frozenset({topic}), cluster_id)


def test_of_two_pipelines_the_older_keeps_the_topic() -> None:
    """The younger learns who has it."""
    claims = Claims()
    older, younger = claim("older", "2026-01-01T00:00:00Z"), claim("younger", "2026-01-02T00:00:00Z")
    claims.put(younger)
    claims.put(older)
    assert claims.senior(older) is None
    assert claims.senior(younger) == (older, frozenset({"t"}))


def test_two_names_of_one_cluster_are_one_cluster() -> None:
    """Kafka's cluster id tells, where the addresses differ."""
    a = claim("a", "1", brokers="kafka:9092", cluster_id="x")
    b = claim("b", "2", brokers="kafka.svc:9092", cluster_id="x")
    assert a.contests(b)
    assert not a.contests(replace(b, cluster_id="y"))


def test_a_topic_that_is_let_go_wakes_those_who_waited() -> None:
    """They need not wait for the next resync."""
    claims = Claims()
    for waiting in (claim("older", "1"), claim("younger", "2"), claim("stranger", "3", topic="other")):
        claims.put(waiting)
    assert claims.forget("older") == ["younger"]
