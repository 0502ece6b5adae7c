"""How ingest and query get into the database: with logins of their own, or with the Secrets that the resource names.

What is held is read from the Secrets, what is true from the database and the pods; `logins` says what follows, and here
it is done. What pods mount comes from the Secrets alone, so that it is known while the database is away.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

import psycopg

from sensorlog.credentials import DATABASE_URI
from sensorlog_operator import connections, logins, manifests, role_changes, workloads
from sensorlog_operator.connection_uri import password_of, with_login
from sensorlog_operator.errors import NeedsChangeError, PipelineError, UnavailableError
from sensorlog_operator.kube import DEPLOYMENT, POD, SECRET, Kube, Object
from sensorlog_operator.logins import Held, Seen, Wish
from sensorlog_operator.manifests import DATABASE_LOGIN
from sensorlog_operator.models import GROUP, Pipeline
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.roles import COMPONENTS, SLOTS, Component, ObservedRoles, RoleNames, Slot, observe
from sensorlog_operator.secrets import Credentials, Mount, Projection, database_reference, primary_fallback

ACTIVE = f"{GROUP}/active-login"
COMING = f"{GROUP}/coming-login"
REQUEST = f"{GROUP}/rotation-request"
MADE = f"{GROUP}/password-made-at"
"""Annotations of the Secret."""

PASSWORD_BYTES = 32
INSTANT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(slots=True)
class Outcome:
    """What was done, and what kept a component from its login; the other one goes on."""

    actions: list[Action] = field(default_factory=list)
    problems: list[PipelineError] = field(default_factory=list)


def secret_name(pipeline: Pipeline, component: Component) -> str:
    """Return the name of the Secret that holds a component's logins."""
    return f"{manifests.child_name(pipeline, component)}-database"


def key(slot: Slot) -> str:
    """Return the key of the Secret that holds a login's connection URI."""
    return f"{DATABASE_URI}-{slot}"


def primary_key(slot: Slot) -> str:
    """Return the key that holds the same login's URI at the primary, where the query service may ask it too."""
    return f"primary-{key(slot)}"


class Access:
    """The way into the database of one pipeline's components, as of one reconcile."""

    def __init__(self, kube: Kube, pipeline: Pipeline, credentials: Credentials) -> None:
        self._kube = kube
        self._pipeline = pipeline
        self._credentials = credentials
        self._secrets = {c: kube.get(SECRET, pipeline.namespace, secret_name(pipeline, c)) for c in COMPONENTS}

    @property
    def managed(self) -> bool:
        """Whether the resource wants logins of their own for the pods."""
        return self._pipeline.spec.timescale.access == "Managed"

    def mounts(self) -> dict[str, Mount]:
        """Return of each component how its pods get in; one without a login yet is left out.

        Raises NeedsChangeError where a Secret that the resource names is not as it should be.
        """
        found: dict[str, Mount | None] = {component: self._mount(component) for component in COMPONENTS}
        return {component: mount for component, mount in found.items() if mount}

    def status(self) -> dict[str, str] | None:
        """Return the logins in use, and the last rotation that left no former login behind; None where there is none.

        A rotation that is under way shows nothing new, so that the text of a request means that it was done.
        """
        held = [self._held(component) for component in COMPONENTS]
        made = [h.made for h in held if h.made and h.settled]
        if not self.managed or len(made) < len(held):
            return None
        names: dict[str, str] = {c: _annotations_of(self._secrets[c])[DATABASE_LOGIN] for c in COMPONENTS}
        request = held[0].request if held[0].request == held[1].request else ""
        return {**names, "rotatedAt": _instant(min(made)), **({"request": request} if request else {})}

    def description(self) -> str:
        """Return in words how the pods get in."""
        if not self.managed:
            return "Pods use the connection Secrets themselves: spec.timescale.access is Shared."
        held = {component: self._held(component) for component in COMPONENTS}
        changing = [component for component, logins_held in held.items() if not logins_held.settled]
        if changing:
            return f"The login of {' and '.join(changing)} changes: the old one stays good until no pod uses it."
        return "Ingest and query have a login of their own with no more rights than they need."

    def converge(self, connection: connections.Connection, *, change_roles: bool = True) -> Outcome:
        """Bring roles, logins and Secrets forward as far as can be now. PipelineErrors where it is no component's.

        Without `change_roles` the logins that there are go on: a rotation does not wait for what a person looks at.
        """
        outcome = Outcome()
        if not self.managed and not any(self._held(component).passwords for component in COMPONENTS):
            return outcome
        if self.managed and change_roles:
            actions, observed = role_changes.provision(connection, self._pipeline.schema_name)
            outcome.actions = [action for action in actions if not isinstance(action, Refusal)]
        else:
            observed = observe(connection, self._pipeline.schema_name)
        if not observed.complete:
            return outcome
        for component in COMPONENTS:
            try:
                outcome.actions += self._component(connection, observed, component)
            except PipelineError as e:
                outcome.problems.append(e)
        return outcome

    def restless(self, observed: ObservedRoles | None) -> bool:
        """Return whether `converge` may have something to do, from what is held and seen; a login's use is not asked.

        Raises NeedsChangeError as `mounts`.
        """
        if not self.managed:
            return any(self._held(component).passwords for component in COMPONENTS)
        if observed is None or not observed.complete:
            return True
        return not all(
            self._at_rest(observed, component) and not self._to_store(component, observed.names, self._held(component))
            for component in COMPONENTS
        )

    def _at_rest(self, observed: ObservedRoles, component: Component) -> bool:
        seen = Seen(observed.names.logins(component), observed.fingerprints(component))
        return self.managed and logins.at_rest(self._held(component), seen, self._wish, datetime.now(UTC))

    @property
    def _wish(self) -> Wish:
        return Wish(self._pipeline.rotation_request, self._pipeline.rotation_interval)

    def _component(
        self, connection: connections.Connection, observed: ObservedRoles, component: Component
    ) -> list[Action]:
        if self._at_rest(observed, component):
            return self._store(component, observed.names, self._held(component))
        names = observed.names.logins(component)
        seen = Seen(names, observed.fingerprints(component), self._in_use(component, names))
        held = self._wanted(self._held(component), seen)
        actions = self._store(component, observed.names, held)
        for slot in logins.to_let_in(held, seen):
            actions += role_changes.let_in(connection, observed, names[slot], held.passwords[slot])
        if held.coming:
            self._try(component, names[held.coming], held.passwords[held.coming])
            held = logins.arrived(held)
            actions += self._store(component, observed.names, held)
        if former := logins.to_shut_out(held, seen):
            let_in = [names[slot] for slot in former if slot in seen.fingerprints]
            actions += role_changes.shut_out(connection, observed, let_in)
            actions += self._store(component, observed.names, logins.without(held, former))
        return actions

    def _wanted(self, held: Held, seen: Seen) -> Held:
        if not self.managed:
            return Held(held.passwords, request=held.request, made=held.made)
        return logins.begin(held, seen, self._wish, datetime.now(UTC), secrets.token_urlsafe(PASSWORD_BYTES))

    def _in_use(self, component: Component, names: Mapping[Slot, str]) -> frozenset[Slot]:
        """Return the logins that pods may be using: those that a pod or the template names, both while it rolls out."""
        selector = manifests.selector_text(self._pipeline, component)
        deployments = self._kube.list(DEPLOYMENT, self._pipeline.namespace, selector=selector)
        if not all(map(workloads.updated, deployments)):
            return frozenset(SLOTS)
        pods = self._kube.list(POD, self._pipeline.namespace, selector=selector)
        templates = [*pods, *(deployment["spec"]["template"] for deployment in deployments)]
        named = {_annotations_of(template).get(DATABASE_LOGIN) for template in templates}
        return frozenset(slot for slot, name in names.items() if name in named)

    def _try(self, component: Component, login: str, password: str) -> None:
        """Connect as the pods will. A replica may have the login a little later than the primary."""
        try:
            with connections.connect(with_login(self._credentials.database_uri(component), login, password)):
                return
        except PipelineError as e:
            raise UnavailableError(
                e.reason,
                f"The new login {login} of {component} does not get in yet, so the pods stay with what they have"
                f" ({e.__cause__ or e.message}). The operator keeps trying. Check pg_hba.conf and poolers; where"
                " readConnectionSecretRef leads to a server that does not replicate roles, set spec.timescale.access"
                " to Shared.",
            ) from e

    def _held(self, component: Component) -> Held:
        secret = self._secrets[component]
        return read_held(secret) if secret and workloads.owned(secret, self._pipeline.uid) else Held()

    def _store(self, component: Component, names: RoleNames, held: Held) -> list[Action]:
        """Write the Secret where it differs."""
        actions = self._to_store(component, names, held)
        for action in actions:
            if isinstance(action, Refusal):
                raise NeedsChangeError(action.reason, action.summary)
        if actions:
            workloads.apply(self._kube, actions)
            name = secret_name(self._pipeline, component)
            self._secrets[component] = self._kube.get(SECRET, self._pipeline.namespace, name)
        return actions

    def _to_store(self, component: Component, names: RoleNames, held: Held) -> list[Action]:
        uri = self._credentials.database_uri(component)
        with connections.mapped_errors():
            uris = {key(s): with_login(uri, names.login(component, s), p) for s, p in held.passwords.items()}
            if component == "query" and primary_fallback(self._pipeline):
                primary = self._credentials.database_uri()
                for slot, password in held.passwords.items():
                    uris[primary_key(slot)] = with_login(primary, names.login(component, slot), password)
        active = names.login(component, held.active) if held.active else ""
        wanted = manifests.build_secret(
            self._pipeline, secret_name(self._pipeline, component), component, _annotations(held, active), uris
        )
        live = self._secrets[component]
        observed = {("Secret", wanted["metadata"]["name"]): live} if live else {}
        return workloads.plan([wanted], observed, self._pipeline.uid)

    def _mount(self, component: Component) -> Mount | None:
        if not self.managed:
            uri = self._credentials.database_uri(component)
            primary = primary_fallback(self._pipeline) if component == "query" else None
            uris = f"{uri}\0{self._credentials.database_uri()}" if primary else uri
            digest = self._credentials.digest(component, uris)
            return Mount(database_reference(self._pipeline, component), digest, primary=primary)
        held, secret = self._held(component), self._secrets[component]
        if held.active is None or secret is None:
            return None
        name = secret_name(self._pipeline, component)
        projection = Projection(name, key(held.active), DATABASE_URI, "spec.timescale.access")
        uri, at_primary = _text(secret, key(held.active)), _text(secret, primary_key(held.active))
        # Not before the Secret has it: pods do not start without a key that they mount.
        primary = replace(projection, key=primary_key(held.active)) if at_primary else None
        digest = self._credentials.digest(component, f"{uri}\0{at_primary}" if at_primary else uri)
        return Mount(projection, digest, _annotations_of(secret)[DATABASE_LOGIN], primary)


def read_held(secret: Object) -> Held:
    """Return what a Secret of ours holds; a login whose URI cannot be read counts as none."""
    annotations = _annotations_of(secret)
    passwords = {slot: password for slot in SLOTS if (password := _password(_text(secret, key(slot))))}
    active, coming = (cast("Slot", annotations.get(name)) for name in (ACTIVE, COMING))
    return Held(
        passwords,
        active if active in passwords and DATABASE_LOGIN in annotations else None,
        coming if coming in passwords else None,
        annotations.get(REQUEST, ""),
        _moment(annotations.get(MADE, "")),
    )


def _annotations(held: Held, active: str) -> dict[str, str]:
    fields = {
        ACTIVE: held.active,
        COMING: held.coming,
        DATABASE_LOGIN: active,
        REQUEST: held.request,
        MADE: _instant(held.made) if held.made else None,
    }
    return {name: value for name, value in fields.items() if value}


def _annotations_of(body: Object | None) -> dict[str, str]:
    return ((body or {}).get("metadata") or {}).get("annotations") or {}


def _text(secret: Object, name: str) -> str:
    try:
        return base64.b64decode((secret.get("data") or {}).get(name, "")).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _password(uri: str) -> str:
    try:
        return password_of(uri)
    except psycopg.ProgrammingError:
        return ""


def _instant(moment: datetime) -> str:
    return moment.strftime(INSTANT)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, INSTANT).replace(tzinfo=UTC)
    except ValueError:
        return None
