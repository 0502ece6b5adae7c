"""The API server, as far as it can be answered for from copies: pipelines, their children, their Secrets.

It serves who only wants to see that nothing is to be done. What is no copy's business, and every change, goes to the
API server itself.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sensorlog.telemetry import Problem
from sensorlog_operator.errors import Reason, UnavailableError
from sensorlog_operator.informers import Informer, Kept, Watched
from sensorlog_operator.kube import CHILD_KINDS, PIPELINE, SECRET, SELECTOR, Kind, Kube, Object

SECRETS_OF_PEOPLE = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"
"""Leaves out the many Secrets that no pipeline names."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told of changes, with the object's metadata."""

    child: Callable[[Object], None]
    secret: Callable[[Object], None]


class Mirror(Kube):
    """A Kube that answers from copies. UnavailableError where they may be out of date; nothing else is ever wrong.

    Of Secrets, most of which are none of our business, only the versions are watched; the values of those that were
    asked for are kept as long as their version stays.
    """

    def __init__(self, kube: Kube, namespaces: Iterable[str], silence: float, listeners: Listeners) -> None:
        super().__init__(kube.api_client)
        self._values: dict[tuple[str, str], Kept] = {}
        self._listeners = listeners
        self._started = False
        watched_namespaces = tuple(namespaces) or (None,)
        watched = {
            PIPELINE: (Watched(PIPELINE), _nobody),
            SECRET: (Watched(SECRET, field_selector=SECRETS_OF_PEOPLE, metadata_only=True), self._secret_changed),
            **{kind: (_children(kind), listeners.child if kind.watched else _nobody) for kind in CHILD_KINDS.values()},
        }
        self._informers = {
            (kind, namespace): Informer(self, replace(what, namespace=namespace), silence, heard)
            for kind, (what, heard) in watched.items()
            for namespace in watched_namespaces
        }

    def start(self) -> None:
        """Begin to watch."""
        self._started = True
        for informer in self._informers.values():
            informer.start()

    def stop(self) -> None:
        """Watch no more."""
        for informer in self._informers.values():
            informer.stop()

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return an object, None where it does not exist."""
        if namespace is None or kind not in (PIPELINE, SECRET):
            return super().get(kind, namespace, name)
        informer = self._informer(kind, namespace)
        if kind == SECRET:
            return self._secret(informer, namespace, name)
        return next(iter(informer.find(namespace, name)), None)

    def children(self, kind: Kind, namespace: str, pipeline: str) -> list[Object]:
        """Return the children of one kind that a pipeline has."""
        return self._informer(kind, namespace).find(namespace, pipeline)

    @property
    def is_current(self) -> bool:
        """Whether the copies of all that every cluster knows are up to date."""
        return all(informer.is_current for (kind, _), informer in self._informers.items() if not kind.optional)

    def problem(self) -> Problem:
        """Return which watches ended; for liveness."""
        ended = {kind.plural for (kind, _), informer in self._informers.items() if not informer.is_alive}
        return f"watches ended: {', '.join(sorted(ended))}" if self._started and ended else None

    def note(self, pipeline: Object) -> None:
        """Take a pipeline as the API server answered it."""
        self._of(PIPELINE, pipeline["metadata"]["namespace"]).note(pipeline)

    def _secret(self, informer: Informer, namespace: str, name: str) -> Object | None:
        version, kept = informer.version(namespace, name), self._values.get((namespace, name))
        if version is None:
            return None
        if kept is None or kept.version != version:
            body = super().get(SECRET, namespace, name)
            if body is None:
                return None
            body["metadata"].pop("managedFields", None)
            kept = Kept(int(body["metadata"]["resourceVersion"]), json.dumps(body).encode())
            self._values[namespace, name] = kept
        found: Object = json.loads(kept.text)
        return found

    def _secret_changed(self, metadata: Object) -> None:
        self._values.pop((metadata["namespace"], metadata["name"]), None)
        self._listeners.secret(metadata)

    def _informer(self, kind: Kind, namespace: str) -> Informer:
        informer = self._of(kind, namespace)
        if not informer.is_current:
            raise UnavailableError(
                Reason.KUBERNETES_UNAVAILABLE, f"The copies of {kind.plural} may be out of date: their watch is silent."
            )
        return informer

    def _of(self, kind: Kind, namespace: str) -> Informer:
        return self._informers.get((kind, None)) or self._informers[kind, namespace]


def _children(kind: Kind) -> Watched:
    return Watched(kind, label_selector=SELECTOR, by_instance=True)


def _nobody(_metadata: Object) -> None:
    """Tell nobody: kopf tells of pipelines, and scalers write what they measured every few seconds."""
