"""Canaries: marked messages that are sent into a pipeline's topic and looked for in its query service's answers.

What is measured is what readers get: topic, ingest, database, replica if there is one, query service. Reconciles say
which pipelines have canaries and how to reach them; threads of their own send them, because one takes its time.
"""

import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from sensorlog.canary import HEADER
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog_operator import metrics
from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import Reason
from sensorlog_operator.workqueue import WorkQueue

WORKERS = 4
SEND_SECONDS = 10
PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.1
CALL_SECONDS = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a pipeline's canaries go in and come out."""

    kafka_options: Mapping[str, str]
    topic: str
    partitions: int
    endpoint: str
    tls: bool
    authority: bytes | None
    """The certificate authority of the query service, PEM; None for those that the system trusts."""
    interval: float
    """In seconds."""
    patience: float = PATIENCE_SECONDS
    """After how many seconds a canary that is in no answer is lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a canary: how long it took in seconds, or why it did not come."""

    seconds: float | None
    reason: Reason
    message: str

    def condition(self) -> Condition:
        """Return the condition DataFlowing."""
        return Condition("DataFlowing", status=self.seconds is not None, reason=self.reason, message=self.message)


class CanaryError(Exception):
    """A canary did not come; `reason` and the message say where it was last seen."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Canaries:
    """Sends the canaries of all pipelines. `changed` is called with the key of one whose condition has to be told anew.

    What it remembers is the last outcome of each: a new operator sends a canary at once.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._routes: dict[str, Route] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._lock = threading.Lock()
        self._queue = WorkQueue()
        self._threads: list[threading.Thread] = []

    def keep(self, key: str, route: Route | None) -> Outcome | None:
        """Send canaries by `route` from now on, none where it is None; return what came of the last one."""
        with self._lock:
            if route is None:
                self._forget(key)
                return None
            is_new = key not in self._routes
            self._routes[key] = route
            self._start()
        if is_new:
            self._queue.add(key)
        return self._outcomes.get(key)

    def _forget(self, key: str) -> None:
        if self._routes.pop(key, None):
            self._outcomes.pop(key, None)
            metrics.forget_canary(key)

    def _start(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"canary-{number}", daemon=True) for number in range(WORKERS)
            ]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._turn(key)
            except Exception:
                log.exception("canary failed: this is a bug of the operator", pipeline=key)
            finally:
                self._queue.done(key)
            if route := self._routes.get(key):
                self._queue.add_after(key, route.interval * random.uniform(0.9, 1.1))  # noqa: S311 -- spreads load

    def _turn(self, key: str) -> None:
        route = self._routes.get(key)
        if route is None:
            return
        outcome = outcome_of(route)
        with self._lock:
            if key not in self._routes:
                return
            before = self._outcomes.get(key)
            self._outcomes[key] = outcome
        metrics.note_canary(key, outcome.seconds)
        if before is None or before.reason != outcome.reason:
            self._changed(key)


def outcome_of(route: Route) -> Outcome:
    """Send a canary and return what came of it."""
    token, partition = secrets.token_hex(8), random.randrange(route.partitions)  # noqa: S311 -- any will do
    started = time.monotonic()
    try:
        _send(route, token, partition)
        _wait_for(route, token, partition)
    except CanaryError as e:
        return Outcome(None, e.reason, str(e))
    seconds = time.monotonic() - started
    return Outcome(seconds, Reason.READY, f"A canary took {_rough(seconds)} s from the topic to an answer.")


def _rough(seconds: float) -> str:
    """Return seconds to one significant digit, so that the condition is not written anew for nothing."""
    return f"{float(f'{seconds:.1g}'):g}"


def _send(route: Route, token: str, partition: int) -> None:
    errors: list[KafkaError] = []
    options: dict[str, Any] = {
        **route.kafka_options,
        "client.id": "sensorlog-operator-canary",
        "message.timeout.ms": SEND_SECONDS * 1000,
        "error_cb": errors.append,
        "log_level": 2,
    }
    try:
        producer = Producer(options)
        producer.produce(
            route.topic,
            b"canary",
            partition=partition,
            headers={HEADER: token.encode()},
            on_delivery=lambda error, _message: errors.append(error) if error else errors.clear(),
        )
        undelivered = producer.flush(SEND_SECONDS + 1)
    except KafkaException as e:
        raise CanaryError(Reason.CANARY_NOT_SENT, _not_sent(route, e.args[0])) from e
    if undelivered or errors:
        raise CanaryError(Reason.CANARY_NOT_SENT, _not_sent(route, errors[-1] if errors else None))


def _not_sent(route: Route, error: KafkaError | None) -> str:
    why = error.str() if error else "no broker answers"
    return f"No canary could be sent to topic {route.topic} ({why}). TopicReady says more."


def _wait_for(route: Route, token: str, partition: int) -> None:
    deadline = time.monotonic() + route.patience
    error: grpc.RpcError | None = None
    with _channel(route) as channel:
        stub = LoggerStub(channel)
        while time.monotonic() < deadline:
            try:
                reply = stub.ListCanary(pb.ListCanaryReq(), timeout=CALL_SECONDS, wait_for_ready=True)
            except grpc.RpcError as e:
                error = e
            else:
                error = None
                if any((c.partition, c.token) == (partition, token) for c in reply.results):
                    return
            time.sleep(LOOK_SECONDS)
    if error is not None:
        raise CanaryError(
            Reason.CANARY_NOT_ANSWERED,
            f"The query service at {route.endpoint} does not answer ({error.code().name}: {error.details()})."
            " QueryReady says more; a NetworkPolicy of your own may keep the operator out.",
        )
    raise CanaryError(
        Reason.CANARY_LOST,
        f"A canary in partition {partition} of topic {route.topic} was in no answer within {route.patience:.0f} s:"
        " ingest does not store it, or the replica that is read lags. See status.lag and IngestReady.",
    )


def _channel(route: Route) -> grpc.Channel:
    if route.tls:
        return grpc.secure_channel(route.endpoint, grpc.ssl_channel_credentials(route.authority))
    return grpc.insecure_channel(route.endpoint)
