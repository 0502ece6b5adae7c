"""Who may read: a bearer token that Kubernetes knows, of somebody whom RBAC lets `get` sensorlogpipelines/data.

ListCanary takes sensorlogpipelines/canary instead: who looks whether data flows need not see any. Only the Logger
service asks for a token. Health stays open, as probes and balancers need it, and so does reflection: it tells the
contract, which is public, and no data.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum

import grpc

from sensorlog_query.errors import PermissionDeniedError, UnauthenticatedError
from sensorlog_query.reviews import ApiServer, Resource
from sensorlog_query.wrapping import Handler, LoggerInterceptor, wrapped

DATA, CANARY = "data", "canary"
"""The subresources of a pipeline that callers are asked for; there is nothing behind them in Kubernetes itself."""

MAX_TOKEN_BYTES = 16 * 1024
MAX_VERDICTS = 1024
"""Tokens remembered at once; a flood of made-up ones pushes the oldest out and no memory up."""


class Verdict(Enum):
    """What is known of a token."""

    ADMITTED = "admitted"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"


class Verdicts:
    """Verdicts by token, for `seconds` each. Of a token only its SHA-256 is kept.

    Calls with the same token at the same time ask once. An error of `ask` is raised and not remembered.
    """

    def __init__(self, ask: Callable[[str], Verdict], seconds: float, limit: int = MAX_VERDICTS) -> None:
        self._ask = ask
        self._seconds = seconds
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()
        self._asking: dict[bytes, threading.Lock] = {}

    def of(self, token: str) -> Verdict:
        """Return the verdict on a token."""
        key = hashlib.sha256(token.encode()).digest()
        found = self._find(key)
        if found is not None:
            return found
        with self._lock:
            turn = self._asking.setdefault(key, threading.Lock())
        with turn:
            return self._find(key) or self._learn(key, token)

    def _find(self, key: bytes) -> Verdict | None:
        with self._lock:
            until, verdict = self._known.get(key, (0.0, None))
            return verdict if time.monotonic() < until else None

    def _learn(self, key: bytes, token: str) -> Verdict:
        try:
            verdict = self._ask(token)
            with self._lock:
                self._known.pop(key, None)
                self._known[key] = (time.monotonic() + self._seconds, verdict)
                while len(self._known) > self._limit:
                    self._known.popitem(last=False)
            return verdict
        finally:
            with self._lock:
                self._asking.pop(key, None)


class Right:
    """The right to `get` a resource, which callers show by their tokens."""

    def __init__(self, api_server: ApiServer, resource: Resource, audience: str, cache_seconds: float) -> None:
        self._api_server = api_server
        self._resource = resource
        self._audience = audience
        self._verdicts = Verdicts(self._judge, cache_seconds)

    @contextmanager
    def demanded(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Let a call in whose caller has it."""
        self._admit(bearer_token(context))
        yield

    def _admit(self, token: str) -> None:
        resource = self._resource
        match self._verdicts.of(token):
            case Verdict.UNKNOWN:
                raise UnauthenticatedError(
                    "the token does not hold here: it is invalid, expired, or not issued for the audience"
                    f" {self._audience!r}; get one with `kubectl create token NAME --audience {self._audience}`"
                )
            case Verdict.FORBIDDEN:
                raise PermissionDeniedError(
                    f"you may not read pipeline {resource.namespace}/{resource.name}: it takes the right to get"
                    f" sensorlogpipelines/{resource.subresource} of sensorlog.dev in namespace {resource.namespace}"
                )
            case Verdict.ADMITTED:
                return

    def _judge(self, token: str) -> Verdict:
        user = self._api_server.user_of(token, self._audience)
        if user is None:
            return Verdict.UNKNOWN
        return Verdict.ADMITTED if self._api_server.may_read(user, self._resource) else Verdict.FORBIDDEN


class Authentication(LoggerInterceptor):
    """Lets callers of the Logger service in who may read `resource`, or its canaries.

    Stands inside the Boundary, which makes status codes of what is raised here: UnauthenticatedError,
    PermissionDeniedError, and UnavailableError where the API server cannot be asked. A stream is checked when it
    begins.
    """

    def __init__(self, api_server: ApiServer, resource: Resource, audience: str, cache_seconds: float) -> None:
        super().__init__()
        self._data, self._canaries = (
            Right(api_server, replace(resource, subresource=part), audience, cache_seconds) for part in (DATA, CANARY)
        )

    def around(self, method: str, handler: "Handler") -> "Handler":
        """Return the handler with the check before its work: where handlers are found it would hold up all calls."""
        right = self._canaries if method == "ListCanary" else self._data
        return wrapped(handler, right.demanded)


def bearer_token(context: grpc.ServicerContext) -> str:
    """Return the token of a call's metadata (RFC 6750, 2.1); UnauthenticatedError where there is none."""
    values = [value for key, value in context.invocation_metadata() if key == "authorization"]
    if len(values) != 1:
        raise UnauthenticatedError("a token is needed: send the metadata `authorization: Bearer TOKEN`, once")
    scheme, _, token = str(values[0]).partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise UnauthenticatedError("the metadata `authorization` must be `Bearer TOKEN`")
    return token
