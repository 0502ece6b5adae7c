"""Tokens to show to query services that ask who calls, by the TokenRequest API.

They are those of an account of its own, which may look for canaries and do nothing else. The audience is chosen by who
writes the resource, and whoever runs the query service sees the token: with the operator's own they could act as the
operator, and with one that reads data they could read their neighbours'. Source: Kubernetes API, TokenRequest
(authentication.k8s.io/v1).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason
from sensorlog_operator.kube import SERVICE_ACCOUNT, Kube, Object

LIFETIME_SECONDS = 3600
"""What is asked for; the API server may give less."""

RENEWED_AFTER = 0.8
"""The share of its lifetime after which a token is replaced, as the kubelet does."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    expires_at: float


class Tokens:
    """The account's tokens by audience, renewed before they expire; safe to share between threads."""

    def __init__(
        self, kube: Kube, namespace: str, account: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._account = account
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, _Token] = {}

    def of(self, audience: str) -> str:
        """Return a token that holds for an audience; PipelineError where none can be had."""
        known = self._tokens.get(audience)
        if known and self._clock() < known.renew_at:
            return known.text
        try:
            token = self._ask(audience)
        except PipelineError:
            if known and self._clock() < known.expires_at:
                return known.text
            raise
        with self._lock:
            now = self._clock()
            self._tokens = {a: t for a, t in self._tokens.items() if now < t.expires_at} | {audience: token}
        return token.text

    def forget(self, audience: str) -> None:
        """Take no token for an audience again that was got before: it was refused."""
        with self._lock:
            self._tokens.pop(audience, None)

    def _ask(self, audience: str) -> _Token:
        if not (self._namespace and self._account):
            raise NeedsChangeError(
                Reason.CANARY_NOT_ADMITTED,
                "The operator has no account for canaries: upgrade its chart, which makes one, or set"
                " SENSORLOG_NAMESPACE and SENSORLOG_CANARY_ACCOUNT.",
            )
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": self._account, "namespace": self._namespace},
            "spec": {"audiences": [audience], "expirationSeconds": LIFETIME_SECONDS},
        }
        asked_at = self._clock()
        answer = self._kube.create(SERVICE_ACCOUNT, request, subresource="token")
        # By the lifetime that was given, not by the moment of expiry: the API server's clock need not be ours.
        lifetime = answer["spec"]["expirationSeconds"]
        return _Token(answer["status"]["token"], asked_at + lifetime * RENEWED_AFTER, asked_at + lifetime)
