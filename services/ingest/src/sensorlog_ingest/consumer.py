"""The Kafka side: group membership, and messages from exactly where the database says.

confluent-kafka calls back for assignments inside `fetch` and `close`, in the thread that calls these.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sensorlog.pipeline import KafkaConfig
from sensorlog.trouble import is_refusal
from sensorlog_ingest.batches import Advance
from sensorlog_ingest.connection import REMEDY, Connection
from sensorlog_ingest.lag import Lag
from sensorlog_ingest.messages import Message, Partition
from sensorlog_ingest.metrics import Metrics
from sensorlog_ingest.positions import Positions, start_of

log = structlog.get_logger(__name__)

_LIBRDKAFKA_LOG = logging.getLogger("librdkafka")

GroupProtocol = Literal["consumer", "classic"]

BROKER_SECONDS = 5.0
"""How long one question to the broker may take. The consumer's thread waits for it."""

PROBE_SECONDS = 5.0
"""How often topics and brokers are looked at while no partition is assigned."""

RETRY_SECONDS = 1.0
"""How long to wait before asking a broker again that did not answer where a partition starts and ends."""

CLOSE_SECONDS = 4.0
"""How long leaving the group may take; after that the broker finds out by itself."""

OPTIONS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a position outside of the log is ours to judge, see positions.start_of
    "isolation.level": "read_committed",
    "enable.partition.eof": True,  # tells of offsets at a partition's end that are no messages
    "allow.auto.create.topics": False,
    "topic.metadata.refresh.interval.ms": 30_000,
    "queued.max.messages.kbytes": 8 * 1024,  # what librdkafka holds in advance, all partitions together
    "fetch.max.bytes": 8 * 1024 * 1024,  # and in one answer of a broker, a larger first message excepted
    "fetch.queue.backoff.ms": 20,  # its default of a second leaves a fast database waiting
    "socket.keepalive.enable": True,
    "socket.timeout.ms": 20_000,  # with the next: how soon a network that swallows packets is noticed
    "socket.connection.setup.timeout.ms": 5_000,
}
"""librdkafka's options: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"""

CLASSIC_OPTIONS: dict[str, Any] = {
    "group.protocol": "classic",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
}


class RebalanceListener(Protocol):
    """Who must know that partitions go away."""

    def before_revoke(self) -> None:
        """Store what was read, because others will read on from what is stored."""

    def start_over(self) -> None:
        """Forget what was read and is not stored, and call `forget_positions`."""


class MessageSource:
    """The messages of the pipeline's topics that fall to this process."""

    def __init__(
        self,
        config: KafkaConfig,
        read_options: Callable[[], Mapping[str, str]],
        listener: RebalanceListener,
        metrics: Metrics,
    ) -> None:
        self._topics = [config.readings_topic, config.sensors_topic]
        self._connection = Connection(read_options)
        self._options = {
            **OPTIONS,
            "group.id": config.group_id,
            "client.id": socket.gethostname(),
            "error_cb": self._on_error,
        }
        self._listener = listener
        self._metrics = metrics
        self._positions = Positions()
        self._lag = Lag(metrics)
        self._protocol: GroupProtocol = "consumer"
        self._has_joined = False
        self._held = False
        self._not_before = 0.0
        self._next_probe = 0.0
        self._problem: str | None = "no partition is assigned yet"
        self._consumer = self._connection.consumer(self._subscribe)

    def _subscribe(self, connection: Mapping[str, str]) -> Consumer:
        protocol = CLASSIC_OPTIONS if self._protocol == "classic" else {"group.protocol": self._protocol}
        consumer = Consumer({**connection, **self._options, **protocol}, logger=_LIBRDKAFKA_LOG)
        consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        return consumer

    # Messages

    def fetch(self, count: int, timeout: float) -> list[Message]:
        """Return up to `count` messages that come within `timeout` seconds. Keeps the group membership alive."""
        self._probe_when_idle()
        try:
            fetched = self._consumer.consume(1 if self._held else count, timeout)
        except KafkaException as e:
            self._on_failure(e.args[0])
            return []
        good: list[Any] = [message for message in fetched if message.error() is None]
        messages = self._positions.take(good)
        if len(good) < len(fetched):
            self._on_events([message for message in fetched if message.error() is not None])
        self._lag.refresh(self._consumer)
        return messages

    def _on_events(self, events: Sequence[Any]) -> None:
        """Take what librdkafka hands out among the messages: ends of partitions, and errors."""
        for event in events:
            if event.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- how the binding names local errors
                self._positions.reach_end(Partition(event.topic(), event.partition()), event.offset())
            else:
                self._on_failure(event.error())

    def gap_age(self) -> float:
        """Return for how many seconds partitions have stood behind offsets that are no messages, unstored; 0 if none.

        Such are the markers of transactions, and what was aborted. They come into the next batch, whenever that is;
        until then everybody who compares offsets sees messages that nobody reads.
        """
        return self._positions.gap_age()

    def advances(self) -> dict[Partition, Advance]:
        """Return how far the partitions have moved since the last call."""
        return self._positions.advances()

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka what is stored, for tools that show lag. Nothing here depends on it."""
        ours = set(self._positions.assigned)
        committed = [TopicPartition(*p, offset) for p, offset in offsets.items() if p in ours]
        if not committed:
            return
        try:
            self._consumer.commit(offsets=committed, asynchronous=True)
        except KafkaException as e:
            log.debug("offsets not committed to Kafka", error=str(e))

    def show_lag(self, offsets: Mapping[Partition, int]) -> None:
        """Show how far partitions are of which everything before `offsets` is stored."""
        ours = set(self._positions.assigned)
        self._lag.stored(self._consumer, {p: offset for p, offset in offsets.items() if p in ours})

    # Back-pressure

    def hold(self) -> None:
        """Fetch no messages until `release`, while `fetch` goes on keeping the membership alive."""
        if not self._held:
            self._held = True
            self._consumer.pause([TopicPartition(*p) for p in self._positions.known])
            self._metrics.pauses.inc()

    def release(self) -> None:
        """Fetch again, from where `hold` left off."""
        if self._held:
            self._held = False
            for partition in self._positions.known:
                self._read_from(partition, self._positions.next_offset(partition))

    # Positions

    def waiting(self) -> set[Partition]:
        """Return the partitions that wait for `start_at`; none while a broker that did not answer is left alone."""
        return set() if time.monotonic() < self._not_before else set(self._positions.waiting)

    def forget_positions(self) -> None:
        """Read nothing until `start_at`: what was read and not stored will be read again."""
        self._consumer.pause([TopicPartition(*p) for p in self._positions.known])
        self._positions.forget()

    def start_at(self, stored: Mapping[Partition, int]) -> None:
        """Read the waiting partitions among these from the stored next_offset on."""
        for partition in self._positions.waiting & stored.keys():
            try:
                self._start(partition, stored[partition])
            except KafkaException as e:
                self._not_before = time.monotonic() + RETRY_SECONDS
                log.warning("the broker does not tell where a partition begins", error=str(e), **partition._asdict())

    def _start(self, partition: Partition, stored: int) -> None:
        log_bounds = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=BROKER_SECONDS)
        low, high = log_bounds or (0, 0)
        topic_is_new = stored > high and self._is_new(partition)
        start = start_of(stored, low, high, topic_is_new=topic_is_new)
        if start.restarted:
            self._metrics.restarts.labels(partition.topic).inc()
            log.error(
                "the stored offset is beyond the partition's end",
                **partition._asdict(), stored=stored, low=low, high=high, topic_is_new=topic_is_new,
            )  # fmt: skip
        if start.lost and stored > 0:  # a pipeline that is new has lost nothing
            self._metrics.lost.labels(partition.topic).inc(start.lost)
            log.error("messages were deleted before they were read", **partition._asdict(), lost=start.lost)
        self._read_from(partition, start.offset)
        self._positions.set(partition, stored=stored, next_offset=start.offset)

    def _is_new(self, partition: Partition) -> bool:
        """Return whether the topic was made anew: with the old one Kafka deleted the offsets committed for it."""
        committed = self._consumer.committed([TopicPartition(*partition)], timeout=BROKER_SECONDS)
        return committed[0].offset < 0

    def _read_from(self, partition: Partition, offset: int) -> None:
        target = TopicPartition(*partition, offset)
        try:
            self._consumer.seek(target)
        except KafkaException as e:
            if e.args[0].code() != KafkaError._STATE:  # noqa: SLF001 -- how the binding names local errors
                raise
            # A partition whose fetching has failed does not seek; given back and taken again it starts afresh.
            self._consumer.incremental_unassign([target])
            self._consumer.incremental_assign([target])
        if not self._held:
            self._consumer.resume([target])

    # Assignments

    # A consumer that was replaced may still call back while it closes, in another thread: it has no say any more.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        log.info("partitions assigned", partitions=_shown(partitions))
        self._has_joined = True
        self._problem = None
        # Offset 0 stands for anything that needs no question to the broker: nothing is read before `start_at`.
        consumer.incremental_assign([TopicPartition(p.topic, p.partition, 0) for p in partitions])
        consumer.pause(list(partitions))
        self._positions.assign(map(_partition, partitions))
        self._metrics.assigned.set(len(self._positions.assigned))

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        log.info("partitions revoked", partitions=_shown(partitions))
        self._listener.before_revoke()
        self._give_up(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        log.warning("partitions lost to others", partitions=_shown(partitions))
        self._listener.start_over()
        self._give_up(consumer, partitions)

    def _give_up(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.incremental_unassign(list(partitions))
        self._positions.remove(map(_partition, partitions))
        self._lag.forget(map(_partition, partitions))
        self._metrics.assigned.set(len(self._positions.assigned))

    # Problems

    def problem(self) -> str | None:
        """Return why no messages come, None when all is well."""
        if self._problem:
            return self._problem
        waiting = len(self._positions.waiting)
        return f"{waiting} partitions wait for their stored offsets" if waiting else None

    def _on_error(self, error: KafkaError) -> None:
        self._connection.on_error(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN or self._connection.is_refused():  # noqa: SLF001
            self._problem = self._connection.problem(error)

    def _on_failure(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            self._resubscribe(error)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            log.warning("a partition does not reach back to where we read", error=error.str())
            self._listener.start_over()
        elif error.retriable() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            log.info("Kafka", error=error.str(), code=error.name())
        else:
            self._problem = f"Kafka refuses: {error.str()}" + (f"; {REMEDY}" if is_refusal(error) else "")
            log.warning("Kafka refuses", error=error.str(), code=error.name())

    def _resubscribe(self, error: KafkaError) -> None:
        """Begin anew after an error that ends a consumer; with the classic protocol if the new one never worked."""
        if not self._has_joined:
            self._protocol = "classic" if self._protocol == "consumer" else "consumer"
        log.warning("joining the group anew", error=error.str(), protocol=self._protocol)
        self._go_on_with(self._connection.consumer(self._subscribe))

    def _go_on_with(self, consumer: Consumer) -> None:
        """Put another consumer in place of the one there is; what was read and is not stored will be read again."""
        self._listener.start_over()
        replaced, self._consumer = self._consumer, consumer
        self._lag.forget(self._positions.assigned)
        self._positions.remove(self._positions.assigned)
        self._metrics.assigned.set(0)
        _close(replaced)

    def _probe_when_idle(self) -> None:
        is_idle = self._problem is not None or not self._positions.assigned
        if is_idle and time.monotonic() >= self._next_probe:
            self._problem = self._probe()
            self._next_probe = time.monotonic() + PROBE_SECONDS

    def _probe(self) -> str | None:
        """Ask the brokers for the topics; return what is wrong. More processes than partitions is not wrong."""
        if self._connection.is_refused() and (consumer := self._connection.renewed(self._subscribe)):
            self._go_on_with(consumer)
        try:
            known = self._consumer.list_topics(timeout=BROKER_SECONDS).topics
        except KafkaException as e:
            return self._connection.problem(e.args[0])
        self._connection.works()
        missing = [topic for topic in self._topics if topic not in known]
        if missing:
            return f"topics do not exist yet, or may not be described by this user: {', '.join(missing)}"
        is_first_probe = self._next_probe == 0  # after it, the group had time to give us something
        return "no partition is assigned yet" if is_first_probe and not self._has_joined else None

    # The end

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        _close(self._consumer)


def _close(consumer: Consumer) -> None:
    # In a thread: without a broker the goodbye may take longer than we have.
    closing = threading.Thread(target=consumer.close, name="close-consumer", daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        log.warning("left without a goodbye: the broker did not answer")


def _partition(partition: TopicPartition) -> Partition:
    return Partition(partition.topic, partition.partition)


def _shown(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{partition.topic}[{partition.partition}]" for partition in partitions]
