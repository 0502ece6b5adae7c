"""What kopf tells us: this is the only module that knows it. kopf watches; it keeps none of our state.

Only raw events are handled. Create, update and delete handlers, timers and daemons would put kopf's finalizers and
annotations on users' resources, which then could not be deleted once the operator is gone.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from sensorlog_operator.access import secret_name
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.errors import NeedsChangeError
from sensorlog_operator.kube import CHILD_KINDS
from sensorlog_operator.manifests import SELECTOR
from sensorlog_operator.models import APPROVE, GROUP, PLURAL, ROTATE_CREDENTIALS, VERSION, Pipeline, Resource
from sensorlog_operator.roles import COMPONENTS
from sensorlog_operator.secrets import projections
from sensorlog_operator.workqueue import WorkQueue

SERVER_TIMEOUT_SECONDS = 240
"""The API server ends a watch after so long, and kopf lists anew: a stream that went silent costs no more."""

SECRETS_OF_PEOPLE = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"
"""Leaves out the many and large Secrets that no pipeline names."""

CHILDREN = tuple(kind for kind in CHILD_KINDS.values() if kind.watched)


class Watcher:
    """Turns events into keys of the queue."""

    def __init__(self, queue: WorkQueue, claims: Claims) -> None:
        self._queue = queue
        self._claims = claims
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._secrets: dict[str, frozenset[str]] = {}

    def pipeline(self, event: Mapping[str, Any]) -> None:
        """Queue a pipeline that is new, gone or changed, but not one whose status we wrote ourselves."""
        body = dict(event["object"])
        resource = Resource.from_body(body)
        if event["type"] == "DELETED":
            self._seen.pop(resource.key, None)
            self._secrets.pop(resource.key, None)
            self._queue.add(resource.key)
            return
        self._remember(body)
        asked = tuple(map(resource.annotations.get, (ROTATE_CREDENTIALS, APPROVE)))
        seen = (resource.uid, resource.generation, resource.deleting, resource.finalizers, asked)
        if event["type"] is None or self._seen.get(resource.key) != seen:
            self._seen[resource.key] = seen
            self._queue.add(resource.key)

    def child(self, event: Mapping[str, Any]) -> None:
        """Queue the pipeline that owns a child."""
        meta = event["object"]["metadata"]
        self._queue.add(f"{meta['namespace']}/{meta['labels']['app.kubernetes.io/instance']}")

    def secret(self, event: Mapping[str, Any]) -> None:
        """Queue the pipelines that name a Secret, or own it."""
        meta = event["object"]["metadata"]
        secret = f"{meta['namespace']}/{meta['name']}"
        for key, names in list(self._secrets.items()):
            if secret in names:
                self._queue.add(key)

    def _remember(self, body: dict[str, Any]) -> None:
        try:
            pipeline = Pipeline.from_body(body)
        except NeedsChangeError:
            return  # the reconcile tells
        self._claims.put(Claim.of(pipeline))
        names = {*(p.secret for p in projections(pipeline)), *(secret_name(pipeline, c) for c in COMPONENTS)}
        self._secrets[pipeline.key] = frozenset(f"{pipeline.namespace}/{name}" for name in names)


def register(registry: kopf.OperatorRegistry, watcher: Watcher, on_startup: Callable[[], None]) -> None:
    """Tell kopf what to watch and whom to call."""

    @kopf.on.startup(registry=registry)
    def _startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        on_startup()

    @kopf.on.login(registry=registry)
    def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def _pipeline(event: kopf.RawEvent, **_: Any) -> None:
        watcher.pipeline(event)

    @kopf.on.event("v1", "secrets", registry=registry)
    async def _secret(event: kopf.RawEvent, **_: Any) -> None:
        watcher.secret(event)

    async def _child(event: kopf.RawEvent, **_: Any) -> None:
        watcher.child(event)

    for kind in CHILDREN:
        kopf.on.event(*kind.full_name, registry=registry, id=f"child-{kind.plural}")(_child)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up to watch and nothing else."""
    logging.getLogger("kopf").setLevel(logging.WARNING)  # it would say of every event that it was handled
    settings.posting.enabled = False  # Events are ours, about what people want to know
    settings.scanning.disabled = True  # no right to list CRDs or namespaces is needed for what is fixed
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = SERVER_TIMEOUT_SECONDS + 30
    settings.watching.connect_timeout = 10
    for kind in CHILDREN:
        settings.watching.label_selectors[kind.full_name] = SELECTOR
    settings.watching.field_selectors["secrets"] = SECRETS_OF_PEOPLE
