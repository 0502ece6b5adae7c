"""Puts canaries into topics: one Kafka producer for all pipelines that connect alike."""

import time
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sensorlog.canary import HEADER
from sensorlog.trouble import Trouble, in_words
from sensorlog_operator.brokers import Options

SEND_SECONDS = 10
POLL_SECONDS = 0.02
"""How long a thread may not notice that another one has learnt of its canary's delivery."""

VALUE = b"canary"


class NotSentError(Exception):
    """No broker took the canary; the text says why, in Kafka's words."""


class Sender:
    """A producer; safe to share between threads. NotSentError where the options themselves cannot be used."""

    def __init__(self, options: Options) -> None:
        self._trouble = Trouble()
        settings: dict[str, Any] = {
            **dict(options),
            "client.id": "sensorlog-operator-canary",
            "message.timeout.ms": SEND_SECONDS * 1000,
            "error_cb": self._trouble.note,
            "log_level": 2,  # connection failures reach the condition; librdkafka's own lines would only repeat them
        }
        try:
            self._producer = Producer(settings)
        except KafkaException as e:
            raise NotSentError(str(e.args[0].str())) from e

    def send(self, topic: str, token: str) -> int:
        """Send a canary into a partition by lot, wait until a broker has it, and return which.

        NotSentError where none takes it in SEND_SECONDS.
        """
        delivery: Future[int] = Future()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                delivery.set_exception(KafkaException(error))
            else:
                delivery.set_result(message.partition() or 0)

        self._trouble.forget()
        try:
            self._producer.produce(topic, VALUE, headers={HEADER: token.encode()}, on_delivery=on_delivery)
            return self._await(delivery)
        except KafkaException as e:
            raise NotSentError(in_words(self._trouble.error or e.args[0])) from e
        except (BufferError, TimeoutError) as e:
            raise NotSentError("no broker answers") from e

    def _await(self, delivery: "Future[int]") -> int:
        deadline = time.monotonic() + SEND_SECONDS + 1
        while not delivery.done() and time.monotonic() < deadline:
            self._producer.poll(POLL_SECONDS)
        return delivery.result(0)

    def close(self) -> None:
        """Disconnect; what was not delivered is dropped."""
        self._producer.purge()
        self._producer.close()
