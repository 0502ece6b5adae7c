"""A real broker for tests: topics, messages, outages."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from docker.models.containers import Container

from support.containers import Outages, Spec
from support.waiting import wait_until

IMAGE = "sensorlog/kafka:dev"
HOST_PORT = 19092
"""The container's port for clients of the host. The broker talks to itself through another listener."""

NETWORK_PORT = 29092
"""The container's port for clients on a test network."""

START_SECONDS = 60
FLUSH_SECONDS = 60

Headers = list[tuple[str, str | bytes | None]]

PARTITIONER_DECIDES = -1
"""librdkafka's RD_KAFKA_PARTITION_UA."""


@dataclass(frozen=True)
class KafkaBroker(Outages):
    """One broker of one session."""

    bootstrap_servers: str
    container: Container

    def admin(self) -> AdminClient:
        """Return an admin client of one's own."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2})

    def wait_ready(self) -> None:
        """Wait until the broker answers metadata requests."""
        admin = self.admin()
        wait_until(lambda: admin.list_topics(timeout=1).brokers, deadline=START_SECONDS, what="the broker to answer")

    def create_topic(self, topic: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait until it can be produced to."""
        admin = self.admin()
        _wait(admin.create_topics([NewTopic(topic, partitions, 1, config=dict(config or {}))]))
        wait_until(
            lambda: [p for p in admin.list_topics(topic, timeout=2).topics[topic].partitions.values() if p.leader >= 0],
            lambda led: len(led) == partitions,
            deadline=20,
            what=f"leaders of {topic}",
        )

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        admin = self.admin()
        _wait(admin.delete_topics([topic]))
        wait_until(lambda: topic not in admin.list_topics(timeout=2).topics, deadline=20, what=f"{topic} to be deleted")

    def delete_records(self, topic: str, partition: int, *, before: int) -> None:
        """Delete the messages before an offset, as retention does."""
        admin = self.admin()  # a client that is gone never answers
        _wait(admin.delete_records([TopicPartition(topic, partition, before)]))

    def producer(self, **options: Any) -> Producer:
        """Return an idempotent producer; keyword names are librdkafka's with `_` for `.`."""
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 2,
                **{name.replace("_", "."): value for name, value in options.items()},
            }
        )

    def produce(
        self,
        topic: str,
        values: Iterable[Any],
        *,
        partitions: int = 0,
        headers: Headers | None = None,
        key: bytes | None = None,
        **options: Any,
    ) -> None:
        """Send `values` in order and wait until all are stored.

        A value that is not bytes or None is sent as JSON. With `partitions` they go to 0..partitions-1 in turn,
        otherwise where the producer's partitioner says.
        """
        producer = self.producer(**options)
        for number, value in enumerate(values):
            encoded = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            partition = number % partitions if partitions else PARTITIONER_DECIDES
            producer.produce(topic, encoded, key=key, headers=headers, partition=partition, on_delivery=_raise_error)
            producer.poll(0)
        assert producer.flush(FLUSH_SECONDS) == 0, f"the broker did not take all messages of {topic}"


def _raise_error(error: object, _message: object) -> None:
    assert error is None, f"not delivered: {error}"


def _wait(futures: Mapping[Any, "Future[Any]"]) -> None:
    for future in futures.values():
        future.result(timeout=20)


def broker_spec(port: int, environment: Mapping[str, str] | None = None, *, network_address: str | None = None) -> Spec:
    """Return a KRaft node that clients of this host reach at 127.0.0.1:`port`.

    With `network_address`, those of a test network reach it there, at NETWORK_PORT.
    """
    listeners = {
        "INTERNAL": ("localhost", 9092, 9092),
        "HOST": ("127.0.0.1", HOST_PORT, port),
        **({"EXTERNAL": (network_address, NETWORK_PORT, NETWORK_PORT)} if network_address else {}),
    }
    return Spec(
        IMAGE,
        "sensorlog-test-kafka",
        ports={HOST_PORT: port},
        environment={
            "KAFKA_LISTENERS": ",".join(
                ["CONTROLLER://:9093", *(f"{name}://:{inside}" for name, (_, inside, _) in listeners.items())]
            ),
            "KAFKA_ADVERTISED_LISTENERS": ",".join(
                f"{name}://{host}:{outside}" for name, (host, _, outside) in listeners.items()
            ),
            "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
            "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "500",
            "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "500",  # rebalances of KIP-848 take a heartbeat or two
            "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "1000",
            "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "6000",  # how soon a killed member's partitions move
            **(environment or {}),
        },
    )
