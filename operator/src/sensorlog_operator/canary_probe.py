"""One canary, from the topic to an answer of the query service."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog_operator.brokers import Options, hashable
from sensorlog_operator.canary_sender import NotSentError, Sender
from sensorlog_operator.canary_tokens import Tokens
from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.leases import Leases

PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.1
CALL_SECONDS = 3.0

CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # else closing a channel may leave its connection to another one
)

NOT_ADMITTED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What is shown to a service with mutual TLS (PEM)."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to know the query service, and be known by it."""

    authority: bytes | None
    """The certificate authority of the service, PEM; None for those that gRPC trusts by itself."""
    client: ClientCertificate | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The query service that is asked. Calls to equal ones share a connection."""

    address: str
    tls: Tls | None = None
    audience: str | None = None
    """What the token must be issued for; None where none is asked for. Never without `tls`."""

    def __post_init__(self) -> None:
        if self.audience is not None and self.tls is None:
            raise ValueError("a token must not travel in clear")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a pipeline's canaries go in and come out."""

    kafka_options: Mapping[str, str] = field(repr=False)
    topic: str
    endpoint: Endpoint
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


class Probe:
    """Sends canaries and looks for them; safe to share between threads that work for different pipelines."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._senders: Leases[Options, Sender] = Leases(Sender, Sender.close)
        self._channels: Leases[Endpoint, grpc.Channel] = Leases(_channel, lambda channel: channel.close())

    def outcome_of(self, key: str, route: Route) -> Outcome:
        """Send a canary of the pipeline `key` and return what came of it; connections are kept for the next one."""
        token = secrets.token_hex(8)
        try:
            self._authorization(route.endpoint)  # before, so that getting a token counts as no part of the way
            started = time.monotonic()
            partition = self._send(key, route, token)
            self._wait_for(key, route, pb.Canary(partition=partition, token=token))
        except CanaryError as e:
            return Outcome(None, e.reason, str(e))
        seconds = time.monotonic() - started
        return Outcome(seconds, Reason.READY, f"A canary took {_rough(seconds)} s from the topic to an answer.")

    def release(self, key: str) -> None:
        """Close what only this pipeline's canaries used."""
        self._senders.release(key)
        self._channels.release(key)

    def _authorization(self, endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
        """Return the metadata that a call is made with."""
        if endpoint.audience is None:
            return ()
        try:
            return (("authorization", f"Bearer {self._tokens.of(endpoint.audience)}"),)
        except PipelineError as e:
            message = f"The query service asks for a token, and the operator got none. {e.message}"
            raise CanaryError(Reason.CANARY_NOT_ADMITTED, message) from e

    def _send(self, key: str, route: Route, token: str) -> int:
        try:
            return self._senders.lease(key, hashable(route.kafka_options)).send(route.topic, token)
        except NotSentError as e:
            # A producer goes on connecting by itself, with credentials that somebody may have rotated.
            self._senders.release(key)
            message = f"No canary could be sent to topic {route.topic} ({e}). TopicReady says more."
            raise CanaryError(Reason.CANARY_NOT_SENT, message) from e

    def _wait_for(self, key: str, route: Route, sent: pb.Canary) -> None:
        deadline = time.monotonic() + route.patience
        error: grpc.RpcError | None = None
        stub = LoggerStub(self._channels.lease(key, route.endpoint))
        while time.monotonic() < deadline:
            try:
                reply = stub.ListCanary(
                    pb.ListCanaryReq(), timeout=CALL_SECONDS, metadata=self._authorization(route.endpoint)
                )
            except grpc.RpcError as e:
                error = e
                self._check_admitted(route.endpoint, e)
            else:
                error = None
                if any((c.partition, c.token) == (sent.partition, sent.token) for c in reply.results):
                    return
            time.sleep(LOOK_SECONDS)
        raise _unanswered(route.endpoint, error) if error else _lost(route, sent.partition)

    def _check_admitted(self, endpoint: Endpoint, error: grpc.RpcError) -> None:
        """Give up where asking again is no use; CanaryError says what to do."""
        if error.code() not in NOT_ADMITTED:
            return
        if endpoint.audience is not None:
            self._tokens.forget(endpoint.audience)  # the next canary shows a new one
        raise CanaryError(
            Reason.CANARY_NOT_ADMITTED,
            f"The query service at {endpoint.address} does not admit the operator's account for canaries"
            f" ({_words(error)}). The chart lets it get sensorlogpipelines/canary: upgrade the chart, and an image of"
            " spec.query.image that is older.",
        )


def _channel(endpoint: Endpoint) -> grpc.Channel:
    if endpoint.tls is None:
        return grpc.insecure_channel(endpoint.address, CHANNEL_OPTIONS)
    client = endpoint.tls.client
    credentials = grpc.ssl_channel_credentials(
        endpoint.tls.authority, client.key if client else None, client.certificate if client else None
    )
    return grpc.secure_channel(endpoint.address, credentials, CHANNEL_OPTIONS)


def _unanswered(endpoint: Endpoint, error: grpc.RpcError) -> CanaryError:
    tls = (
        " Its certificate must be for that name, of the authority under ca.crt of the Secret of spec.query.tls, which"
        " with clientAuth Require must have signed that of spec.canary.clientCertificateSecretRef too."
        if endpoint.tls
        else ""
    )
    return CanaryError(
        Reason.CANARY_NOT_ANSWERED,
        f"The query service at {endpoint.address} does not answer ({_words(error)}). QueryReady says more; a"
        f" NetworkPolicy of your own may keep the operator out.{tls}",
    )


def _lost(route: Route, partition: int) -> CanaryError:
    return CanaryError(
        Reason.CANARY_LOST,
        f"A canary in partition {partition} of topic {route.topic} was in no answer within {route.patience:.0f} s:"
        " ingest does not store it, or the replica that is read lags. See status.lag and IngestReady.",
    )


def _words(error: grpc.RpcError) -> str:
    # Every RpcError that a call raises is a grpc.Call too, but its type does not say so.
    return f"{error.code().name}: {error.details()}"


def _rough(seconds: float) -> str:
    """Return seconds to one significant digit, so that the condition is not written anew for nothing."""
    return f"{float(f'{seconds:.1g}'):g}"
