"""The Kafka side of a pipeline: its two topics, their partitions and configurations.

`observe` asks the brokers, `plan` compares (pure), `apply` does the admin calls. Only what the resource declares is
compared, so a configuration set by a Kafka administrator stays.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from sensorlog_operator.brokers import KafkaAdmin, mapped_errors
from sensorlog_operator.errors import Reason
from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.spec import ReadingsTopic


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A topic as the resource declares it. `field` is where, for messages."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    field: str


@dataclass(frozen=True, slots=True)
class ObservedTopic:
    """A topic as the brokers have it. The replication factor is that of the partition with the fewest copies."""

    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    def only(self, names: Iterable[str]) -> "ObservedTopic":
        """Return the same without configurations of other names: there are dozens, of many topics."""
        return replace(self, config={name: self.config[name] for name in names if name in self.config})


@dataclass(frozen=True, slots=True)
class CreateTopic(Action):
    """Create a topic that is missing."""

    topic: DesiredTopic


@dataclass(frozen=True, slots=True)
class GrowPartitions(Action):
    """Add partitions. Keys map to other partitions from then on."""

    topic: str
    partitions: int


@dataclass(frozen=True, slots=True)
class AlterConfig(Action):
    """Set configurations, leaving all others alone."""

    topic: str
    config: Mapping[str, str]


def desired(pipeline: Pipeline) -> tuple[DesiredTopic, ...]:
    """Return the two topics that a pipeline declares."""
    kafka = pipeline.spec.kafka
    return tuple(
        DesiredTopic(t.topic, t.partitions, t.replication_factor, t.declared_config(), f"spec.kafka.{name}")
        for name, t in (("readings", kafka.readings), ("sensors", kafka.sensors))
    )


def retention(declared: ReadingsTopic, observed: ObservedTopic | None) -> timedelta | None:
    """Return how long the topic of readings keeps a message: as it is set now, else as declared; None is for ever."""
    configuration = observed.config if observed else {}
    milliseconds = int(configuration.get("retention.ms", declared.declared_config()["retention.ms"]))
    return None if milliseconds < 0 else timedelta(milliseconds=milliseconds)


def observe(kafka: KafkaAdmin, names: Sequence[str]) -> dict[str, ObservedTopic]:
    """Return the topics among `names` that exist."""
    existing = _describe(kafka, names)
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in existing]
    futures = kafka.ask("describe_configs", resources) if resources else {}
    configs = {resource.name: entries for resource, entries in kafka.results(futures).items()}
    return {
        name: ObservedTopic(
            partitions=len(description.partitions),
            replication_factor=min(len(partition.replicas) for partition in description.partitions),
            config={entry.name: entry.value for entry in configs[name].values()},
        )
        for name, description in existing.items()
    }


def _describe(kafka: KafkaAdmin, names: Sequence[str]) -> dict[str, Any]:
    # describe_topics, unlike a metadata request, never makes a broker create the topic.
    with mapped_errors(kafka):
        futures = kafka.ask("describe_topics", TopicCollection(list(names)))
    found = {}
    for name, future in futures.items():
        with mapped_errors(kafka):
            try:
                found[name] = kafka.result(future)
            except KafkaException as e:
                if e.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
    return found


def plan(
    wanted: Iterable[DesiredTopic], observed: Mapping[str, ObservedTopic], *, adopting: bool = False
) -> list[Action]:
    """Return the steps from `observed` to `wanted`, refusals among them.

    With `adopting` what exists was made by somebody else, who may need it as it is: what cannot be taken back is then
    dangerous.
    """
    return [action for topic in wanted for action in _plan_topic(topic, observed.get(topic.name), adopting=adopting)]


def _plan_topic(topic: DesiredTopic, observed: ObservedTopic | None, *, adopting: bool) -> Iterator[Action]:
    if observed is None:
        yield CreateTopic(
            f"create topic {topic.name} with {topic.partitions} partitions, {topic.replication_factor} copies each",
            topic,
            creates=True,
        )
        return
    yield from _plan_partitions(topic, observed, adopting=adopting)
    if observed.replication_factor != topic.replication_factor:
        yield Refusal(
            f"Topic {topic.name} has replication factor {observed.replication_factor}, {topic.field} says"
            f" {topic.replication_factor}: changing it moves data between brokers, which the operator leaves to"
            f" kafka-reassign-partitions. Do that, or set {topic.field}.replicationFactor back.",
            Reason.REPLICATION_FACTOR_CANNOT_CHANGE,
        )
    for key, value in topic.config.items():
        now = observed.config.get(key)
        if now != value:
            summary, risk = f"set {key} from {now} to {value} on topic {topic.name}", _risk(key, value, now)
            yield AlterConfig(summary, topic.name, {key: value}, risk=risk, dangerous=adopting and bool(risk))


def _risk(key: str, value: str, now: str | None) -> str:
    """Return what a configuration does that cannot be taken back."""
    if key in ("retention.ms", "retention.bytes") and _limit(value) < _limit(now):
        return "messages older or more than that are deleted within minutes, read or not."
    if key == "cleanup.policy" and "compact" in value:
        return "only the last message of each key is kept."
    return ""


def _limit(text: str | None) -> float:
    try:
        limit = float(text or "-1")
    except ValueError:
        return float("inf")  # the brokers will say what is wrong with it
    return float("inf") if limit < 0 else limit


def _plan_partitions(topic: DesiredTopic, observed: ObservedTopic, *, adopting: bool) -> Iterator[Action]:
    if topic.partitions > observed.partitions:
        yield GrowPartitions(
            f"grow topic {topic.name} from {observed.partitions} to {topic.partitions} partitions",
            topic.name,
            topic.partitions,
            risk=f"keys map to other partitions from then on, so a sensor's readings are no longer in order among"
            f" themselves for a while; Kafka cannot take the {topic.partitions - observed.partitions} back.",
            dangerous=adopting,
        )
    elif topic.partitions < observed.partitions:
        yield Refusal(
            f"Topic {topic.name} has {observed.partitions} partitions, {topic.field} says {topic.partitions}: Kafka"
            f" cannot remove partitions. Set {topic.field}.partitions to {observed.partitions} or more.",
            Reason.PARTITIONS_CANNOT_SHRINK,
        )


def partitions_after(actions: Iterable[Action], topic: str, before: int) -> int:
    """Return how many partitions `topic` has once `actions` are done."""
    for action in actions:
        match action:
            case CreateTopic(topic=made) if made.name == topic:
                return made.partitions
            case GrowPartitions(topic=name, partitions=partitions) if name == topic:
                return partitions
    return before


@functools.singledispatch
def _execute(action: Action, kafka: KafkaAdmin) -> None:
    raise TypeError(f"no way to do {type(action).__name__} to a topic with {kafka}")


@_execute.register
def _(action: CreateTopic, kafka: KafkaAdmin) -> None:
    topic = action.topic
    new = NewTopic(topic.name, topic.partitions, topic.replication_factor, config=dict(topic.config))
    futures = kafka.ask("create_topics", [new])
    with mapped_errors(kafka):
        try:
            kafka.result(futures[topic.name])
        except KafkaException as e:
            if e.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


@_execute.register
def _(action: GrowPartitions, kafka: KafkaAdmin) -> None:
    new = NewPartitions(action.topic, action.partitions)
    kafka.results(kafka.ask("create_partitions", [new]))


@_execute.register
def _(action: AlterConfig, kafka: KafkaAdmin) -> None:
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in action.config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, action.topic, incremental_configs=entries)
    kafka.results(kafka.ask("incremental_alter_configs", [resource]))


def apply(kafka: KafkaAdmin, actions: Iterable[Action]) -> None:
    """Do what is no refusal, in order."""
    for action in actions:
        if not isinstance(action, Refusal):
            _execute(action, kafka)


def delete(kafka: KafkaAdmin, names: Sequence[str]) -> None:
    """Delete the topics among `names` that exist, with all their messages."""
    if existing := list(_describe(kafka, names)):
        kafka.results(kafka.ask("delete_topics", existing))
