"""Topics against a real broker: created, grown, altered, refused, deleted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from sensorlog_operator import backlog, brokers, topics
from sensorlog_operator.brokers import KafkaAdmin
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.topics import DesiredTopic
from support.containers import free_port
from support.kafka import KafkaBroker
from support.waiting import wait_until

pytestmark = pytest.mark.integration


@dataclass
class Provisioner:
    """One topic of a test, provisioned as the operator does."""

    kafka: KafkaAdmin
    name: str
    made: list[str] = field(default_factory=list)

    def provision(
        self, *, partitions: int = 2, replication: int = 1, config: Mapping[str, str] | None = None
    ) -> list[str]:
        """Bring the topic to what is declared; return the plan in words."""
        wanted = DesiredTopic(self.name, partitions, replication, config or {}, "spec.kafka.readings")
        actions = topics.plan([wanted], topics.observe(self.kafka, [self.name]))
        topics.apply(self.kafka, actions)
        self.made.append(self.name)
        # A broker tells of a new topic a moment after it made it; the operator comes again, a test must wait.
        wait_until(self.observed, deadline=20, what=f"{self.name} to be known")
        return [action.summary for action in actions]

    def observed(self) -> topics.ObservedTopic:
        """Return the topic as the broker has it, None while it has none."""
        return topics.observe(self.kafka, [self.name])[self.name]


@pytest.fixture
def topic(broker: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Provisioner]:
    """Yield a topic of the test's own."""
    kafka = brokers.admin({"bootstrap.servers": broker.bootstrap_servers})
    provisioner = Provisioner(kafka, f"operator.{request.node.name}"[:200])
    yield provisioner
    if provisioner.made:
        topics.delete(kafka, [provisioner.name])


def settled(topic: Provisioner, **config: str) -> None:
    """Wait until a second reconcile finds nothing to do: metadata spreads within moments."""
    wait_until(
        lambda: topic.provision(partitions=topic.observed().partitions, config=config),
        lambda plan: plan == [],
        deadline=20,
        what="an empty plan",
    )


def test_a_topic_is_created_as_declared(topic: Provisioner) -> None:
    """With partitions and configurations; the next reconcile finds nothing to do."""
    topic.provision(partitions=3, config={"retention.ms": "60000"})
    wait_until(lambda: topic.observed().partitions, lambda n: n == 3, deadline=20, what="three partitions")
    assert topic.observed().config["retention.ms"] == "60000"
    settled(topic, **{"retention.ms": "60000"})


def test_creating_a_topic_twice_is_no_error(topic: Provisioner) -> None:
    """An operator that died after the call repeats it."""
    wanted = DesiredTopic(topic.name, 2, 1, {}, "spec.kafka.readings")
    actions = topics.plan([wanted], {})
    topics.apply(topic.kafka, actions)
    topic.made.append(topic.name)
    topics.apply(topic.kafka, actions)


def test_a_topic_grows_and_keeps_its_messages(broker: KafkaBroker, topic: Provisioner) -> None:
    """Partitions are added to the topic that is there."""
    topic.provision(partitions=2)
    broker.produce(topic.name, [b"1", b"2"])
    topic.provision(partitions=4)
    wait_until(lambda: topic.observed().partitions, lambda n: n == 4, deadline=20, what="four partitions")
    wait_until(
        lambda: backlog.observe(topic.kafka, backlog.Question(topic.name, 4, {}, None)).lag,
        lambda lag: lag == 2,
        deadline=20,
        what="two messages",
    )


def test_a_topic_never_shrinks(topic: Provisioner) -> None:
    """The plan refuses, the topic stays."""
    topic.provision(partitions=3)
    wait_until(lambda: topic.observed().partitions, lambda n: n == 3, deadline=20, what="three partitions")
    (refusal,) = topic.provision(partitions=1)
    assert "cannot remove partitions" in refusal
    assert topic.observed().partitions == 3


def test_a_configuration_set_by_an_administrator_stays(topic: Provisioner) -> None:
    """Altering one that is declared leaves the others alone."""
    topic.provision(config={"max.message.bytes": "2000000"})
    topic.provision(config={"retention.ms": "90000"})
    wait_until(
        lambda: topic.observed().config, lambda c: c["retention.ms"] == "90000", deadline=20, what="the retention"
    )
    assert topic.observed().config["max.message.bytes"] == "2000000"


def test_a_configuration_changed_by_hand_is_set_back(topic: Provisioner) -> None:
    """Drift is repaired by the next reconcile."""
    topic.provision(config={"retention.ms": "90000"})
    topic.provision(config={"retention.ms": "1000"})  # by hand
    wait_until(lambda: topic.observed().config["retention.ms"], lambda r: r == "1000", deadline=20, what="the drift")
    (said,) = topic.provision(config={"retention.ms": "90000"})
    assert said.startswith("set retention.ms from 1000 to 90000")


@pytest.mark.parametrize(("replication", "config"), [(5, {}), (1, {"no.such.config": "1"}), (1, {"retention.ms": "x"})])
def test_what_kafka_rejects_needs_a_change(topic: Provisioner, replication: int, config: dict[str, str]) -> None:
    """More copies than brokers, an unknown configuration, a bad value."""
    with pytest.raises(NeedsChangeError) as rejected:
        topic.provision(replication=replication, config=config)
    assert rejected.value.reason is Reason.KAFKA_REJECTED


def test_a_broker_that_is_away_is_unavailable() -> None:
    """Said within seconds, with what to check."""
    kafka = brokers.admin({"bootstrap.servers": f"127.0.0.1:{free_port()}"})
    with pytest.raises(UnavailableError, match="Check that the brokers") as away:
        topics.observe(kafka, ["t"])
    assert away.value.reason is Reason.KAFKA_UNAVAILABLE


def test_a_wrong_security_protocol_is_a_pipeline_error(broker: KafkaBroker) -> None:
    """TLS towards a plaintext listener does not hang, and says what may be the matter."""
    kafka = brokers.admin({"bootstrap.servers": broker.bootstrap_servers, "security.protocol": "SSL"})
    with pytest.raises(PipelineError, match=r"spec\.kafka\.security") as refused:
        topics.observe(kafka, ["t"])
    # The broker hangs up on a handshake: whether librdkafka calls that a refusal depends on who notices first.
    assert refused.value.reason in {Reason.KAFKA_AUTHENTICATION_FAILED, Reason.KAFKA_UNAVAILABLE}


def test_deleting_topics_that_are_gone_is_no_error(topic: Provisioner) -> None:
    """An operator that died after the call repeats it."""
    topics.delete(topic.kafka, [topic.name, "operator.never-there"])
