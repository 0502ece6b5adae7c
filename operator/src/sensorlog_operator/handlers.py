"""What kopf tells us: this is the only module that knows it. kopf watches; it keeps none of our state.

Only raw events are handled. Create, update and delete handlers, timers and daemons would put kopf's finalizers and
annotations on users' resources, which then could not be deleted once the operator is gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import kopf

from sensorlog.telemetry import Heartbeat, Problem
from sensorlog_operator.access import secret_name
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.errors import NeedsChangeError, PipelineError
from sensorlog_operator.kube import INSTANCE
from sensorlog_operator.models import APPROVE, GROUP, PLURAL, ROTATE_CREDENTIALS, VERSION, Pipeline, Resource
from sensorlog_operator.roles import COMPONENTS
from sensorlog_operator.secrets import projections
from sensorlog_operator.settings import Settings

SERVER_TIMEOUT_SECONDS = 240
"""The API server ends a watch after so long, and kopf goes on where it was."""

REQUEST_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10
SAME_TOKEN_SECONDS = 2.0
"""How long a token that was refused is left alone where no other has come."""

START_SECONDS = 2.0
"""How long a start waits for an API server that is away, before it tries again."""

WATCHER = "watcher for "
"""What the names of kopf's tasks begin with that watch."""

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""How long the loop that watches may stand still before it is taken for dead."""


class Watcher:
    """Turns events into keys of pipelines that have changed."""

    def __init__(self, changed: Callable[[str], None], claims: Claims) -> None:
        self._changed = changed
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
            self._changed(resource.key)
            return
        asked = tuple(map(resource.annotations.get, (ROTATE_CREDENTIALS, APPROVE)))
        seen = (resource.uid, resource.generation, resource.deleting, resource.finalizers, asked)
        if event["type"] is None or self._seen.get(resource.key) != seen:
            self._seen[resource.key] = seen
            self._remember(body)
            self._changed(resource.key)

    def child(self, metadata: Mapping[str, Any]) -> None:
        """Queue the pipeline that owns a child."""
        self._changed(f"{metadata['namespace']}/{metadata['labels'][INSTANCE]}")

    def secret(self, metadata: Mapping[str, Any]) -> None:
        """Queue the pipelines that name a Secret, or own it."""
        secret = f"{metadata['namespace']}/{metadata['name']}"
        for key, names in list(self._secrets.items()):
            if secret in names:
                self._changed(key)

    def _remember(self, body: dict[str, Any]) -> None:
        try:
            pipeline = Pipeline.from_body(body)
        except NeedsChangeError:
            return  # the reconcile tells
        self._claims.put(Claim.of(pipeline))
        names = {*(p.secret for p in projections(pipeline)), *(secret_name(pipeline, c) for c in COMPONENTS)}
        self._secrets[pipeline.key] = frozenset(f"{pipeline.namespace}/{name}" for name in names)


class Login:
    """Gives kopf what the API server wants to see, read anew each time that it was refused.

    kopf takes nothing back that was refused before, and ends the operator that is left without. An API server that
    starts may refuse a good token, so each time is another one to kopf, preferred to those before.
    """

    def __init__(self) -> None:
        self._times = 0
        self._last: str | None = None

    def __call__(self, *, retry: int, **kwargs: Any) -> kopf.ConnectionInfo | None:
        """Return how to connect; kopf.TemporaryError where it would be the same at once."""
        info = kopf.login_via_client(**kwargs)
        if info is None:
            return None
        if info.token is not None and info.token == self._last and not retry:
            raise kopf.TemporaryError("the API server refuses the token; no other has come yet", SAME_TOKEN_SECONDS)
        self._times += 1
        self._last = info.token
        return replace(info, priority=self._times)


class Watches:
    """Whether watches have begun, and their loop turns. Where one ends by an error, kopf ends the operator."""

    def __init__(self) -> None:
        self._beat = Heartbeat("the loop that watches the API server", SILENCE_SECONDS)
        self._have_begun = False
        self._started = 0.0
        self._task: asyncio.Task[None] | None = None

    def not_begun(self) -> Problem:
        """Return that no watch has begun yet; for readiness."""
        return None if self._have_begun else "watches nothing yet: is the CRD installed?"

    def problem(self) -> Problem:
        """Return that the loop stands still, or that no watch began when all else had; for liveness."""
        if self._task is None:
            return None
        is_late = time.monotonic() - self._started > SILENCE_SECONDS
        return self._beat() or (self.not_begun() if is_late else None)

    def start(self) -> None:
        """Look at the watches of the running loop from now on, until `stop`."""
        self._started = time.monotonic()
        self._beat.beat()
        self._task = asyncio.create_task(self._look(), name="look at watches")

    async def stop(self) -> None:
        """Look no more."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        while True:
            self._have_begun |= any(task.get_name().startswith(WATCHER) for task in asyncio.all_tasks())
            self._beat.beat()
            await asyncio.sleep(BEAT_SECONDS)


def register(
    registry: kopf.OperatorRegistry,
    watcher: Watcher,
    watches: Watches,
    settings: Settings,
    on_startup: Callable[[], None],
) -> None:
    """Tell kopf what to watch and whom to call."""
    login = Login()

    @kopf.on.startup(registry=registry)
    def _startup(**kwargs: Any) -> None:
        configure(kwargs["settings"], settings.watch_silence_seconds)
        try:
            on_startup()
        except PipelineError as e:  # the API server is away
            raise kopf.TemporaryError(e.message, START_SECONDS) from e

    @kopf.on.startup(registry=registry)
    async def _look(**_: Any) -> None:
        watches.start()

    @kopf.on.cleanup(registry=registry)
    async def _stop(**_: Any) -> None:
        await watches.stop()

    @kopf.on.login(registry=registry)
    def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return login(**kwargs)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def _pipeline(event: kopf.RawEvent, **_: Any) -> None:
        watcher.pipeline(event)


class Patience:
    """Delays in seconds between the attempts of a request: without an end, because kopf ends with one that fails."""

    def __iter__(self) -> Iterator[float]:
        """Yield the delays."""
        yield from (1, 1, 2, 3)
        while True:
            yield 5


class NoDifferences(kopf.DiffBaseStorage):
    """Keeps nothing of a resource: kopf would copy all of it at each event, for differences that nobody asks for."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002
        """Return what is to be compared."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Return what it was before."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep what it is."""


def configure(settings: kopf.OperatorSettings, silence: float) -> None:
    """Set kopf up to watch and nothing else. A stream that says nothing for `silence` seconds is opened anew."""
    logging.getLogger("kopf").setLevel(logging.WARNING)  # it would say of every event that it was handled
    settings.persistence.diffbase_storage = NoDifferences()
    settings.posting.enabled = False  # Events are ours, about what people want to know
    settings.scanning.disabled = True  # no right to list CRDs or namespaces is needed for what is fixed
    settings.networking.request_timeout = REQUEST_TIMEOUT_SECONDS
    settings.networking.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.networking.error_backoffs = Patience()
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = SERVER_TIMEOUT_SECONDS + 30
    settings.watching.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.watching.inactivity_timeout = silence
