"""Connections to Kafka clusters, shared between pipelines, and what their errors mean for a pipeline.

A client keeps connecting in the background. One that is refused, or that nobody has used for a while, is closed: it
would try credentials that somebody has rotated again and again, for the brokers' logs to count.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sensorlog.trouble import Trouble, in_words, is_refusal
from sensorlog_operator import metrics
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.outages import Outages

REQUEST_TIMEOUT_SECONDS = 8.0

REFUSED_SECONDS = 1.0
"""How long a request goes on waiting once a broker has refused us: another broker may answer."""

POLL_SECONDS = 0.1

IDLE_SECONDS = 600.0
"""After how long without a request a client is closed."""

_REJECTED = {
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REQUEST,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError._INVALID_ARG,  # noqa: SLF001 -- librdkafka's local errors start with an underscore
}

T = TypeVar("T")


Options = tuple[tuple[str, str], ...]
"""librdkafka's options, sorted: what makes two clients the same."""


def hashable(options: Mapping[str, str]) -> Options:
    """Return options as they tell clients apart."""
    return tuple(sorted(options.items()))


class KafkaAdmin:
    """An admin client that remembers why its connections fail: calls alone only say that they timed out.

    Raises NeedsChangeError where the options themselves cannot be used.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self.way = hashable(options)
        self.trouble = Trouble()
        self.used_at = time.monotonic()
        self._cluster_id = ""
        try:
            self.client = AdminClient(self._client_options(options))
        except KafkaException as e:
            raise _unusable(e.args[0]) from e

    def _client_options(self, options: Mapping[str, str]) -> dict[str, Any]:
        return {
            **options,
            "client.id": "sensorlog-operator",
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.max.ms": 5_000,
            "error_cb": self.trouble.note,
            "log_level": 2,  # connection failures reach the condition; librdkafka's own lines would only repeat them
        }

    def cluster_id(self) -> str:
        """Return Kafka's own id of the cluster; asked once, because it never changes."""
        if not self._cluster_id:
            with mapped_errors(self):
                self._cluster_id = self.result(self.ask("describe_cluster")).cluster_id
        return self._cluster_id

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Send a request, counted by the name of the client's method; return its future, or one of each part."""
        metrics.KAFKA_REQUESTS.labels(operation).inc()
        return getattr(self.client, operation)(*arguments, request_timeout=REQUEST_TIMEOUT_SECONDS)

    def results(self, futures: Mapping[Any, "Future[Any]"]) -> dict[Any, Any]:
        """Return what every future yields; PipelineError for the first that fails."""
        with mapped_errors(self):
            return {key: self.result(future) for key, future in futures.items()}

    def result(self, future: "Future[T]") -> T:
        """Return what a request yields; KafkaException or TimeoutError, the latter early where a broker refuses us."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS + 2
        is_refused = False
        while True:
            try:
                answer = future.result(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
            else:
                _OUTAGES.over(self.way)
                return answer
            self.client.poll(0)
            if self.trouble.is_refusal and not is_refused:
                is_refused, deadline = True, min(deadline, time.monotonic() + REFUSED_SECONDS)


class _Clients:
    """The clients in use, by their options."""

    def __init__(self) -> None:
        self._clients: dict[Options, KafkaAdmin] = {}
        self._lock = threading.Lock()

    def get(self, options: Mapping[str, str]) -> KafkaAdmin:
        """Return a client with these options, which is made where there is none."""
        key = hashable(options)
        with self._lock:
            now = time.monotonic()
            self._clients = {k: c for k, c in self._clients.items() if k == key or now - c.used_at < IDLE_SECONDS}
            client = self._clients.get(key) or self._clients.setdefault(key, KafkaAdmin(options))
            client.used_at = now
            return client

    def discard(self, client: KafkaAdmin) -> None:
        """Hand a client out no more; it is closed when the last who uses it lets it go."""
        with self._lock:
            self._clients = {key: kept for key, kept in self._clients.items() if kept is not client}


_CLIENTS = _Clients()
_OUTAGES = Outages()


def admin(options: Mapping[str, str]) -> KafkaAdmin:
    """Return an admin client for librdkafka `options`, shared between pipelines that have the same ones.

    UnavailableError while it is known that no broker answers.
    """
    _OUTAGES.check(hashable(options))
    return _CLIENTS.get(options)


@contextmanager
def mapped_errors(kafka: KafkaAdmin) -> Iterator[None]:
    """Turn Kafka's errors into PipelineErrors: this is the one place that knows both."""
    kafka.client.poll(0)
    kafka.trouble.forget()
    try:
        yield
    except KafkaException as e:
        raise _mapped(e.args[0], kafka) from e
    except TimeoutError as e:
        raise _mapped(KafkaError(KafkaError._TIMED_OUT), kafka) from e  # noqa: SLF001


def _mapped(error: KafkaError, kafka: KafkaAdmin) -> PipelineError:
    kafka.client.poll(0)
    cause = kafka.trouble.error or error
    if is_refusal(error) or is_refusal(cause):
        _CLIENTS.discard(kafka)
        _OUTAGES.over(kafka.way)
        return NeedsChangeError(
            Reason.KAFKA_AUTHENTICATION_FAILED,
            f"Kafka refused the connection or the right to do this ({in_words(cause)}). Check spec.kafka.security, the"
            " Secrets it names and the user's ACLs.",
        )
    if error.code() in _REJECTED:
        return NeedsChangeError(
            Reason.KAFKA_REJECTED,
            f"Kafka rejected the request ({error.str()}). Correct spec.kafka.",
        )
    unavailable = UnavailableError(
        Reason.KAFKA_UNAVAILABLE,
        f"Kafka does not answer ({in_words(cause)}). Check that the brokers of spec.kafka.bootstrapServers run and can"
        " be reached from the operator, and that spec.kafka.security.protocol is that of their listener; it keeps"
        " trying.",
    )
    if error.code() < 0:  # of librdkafka itself: no broker has said anything
        _OUTAGES.note(kafka.way, unavailable)
    return unavailable


_FIELDS = {
    "ssl.ca.pem": "key ca.crt of spec.kafka.security.caSecretRef",
    "ssl.certificate.pem": "key tls.crt of spec.kafka.security.clientCertificateSecretRef",
    "ssl.key.pem": "key tls.key of spec.kafka.security.clientCertificateSecretRef",
}


def _unusable(error: KafkaError) -> PipelineError:
    text = str(error.str())
    named = [field for option, field in _FIELDS.items() if option in text]
    if not named:
        return NeedsChangeError(Reason.KAFKA_REJECTED, f"No client can be made ({text}). Correct spec.kafka.")
    return NeedsChangeError(
        Reason.KAFKA_CREDENTIALS_INVALID,
        f"What stands under {named[0]} cannot be used ({text}). Put PEM there; a private key must not be encrypted.",
    )
