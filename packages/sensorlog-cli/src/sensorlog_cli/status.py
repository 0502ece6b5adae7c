"""What there is to say of one pipeline: the resource, its pods and Events as facts, and the verdict on them.

Everything here is pure: objects of the Kubernetes API go in as plain dicts, and `now` is given.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Object = Mapping[str, Any]

CONDITIONS = ("TopicReady", "SchemaReady", "IngestReady", "QueryReady", "Ready")
"""In the order in which a pipeline comes up: an earlier one explains the later ones."""

GOOD_WHEN_FALSE = ("PlanPending", "Drifted")
"""Conditions that are true when somebody should look; Ready does not depend on them."""

MAX_EVENTS = 10


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `status` is True, False or Unknown as the API writes it."""

    type: str
    status: str
    reason: str
    message: str
    age: timedelta | None

    @property
    def holds(self) -> bool:
        """Return whether the condition is as it should be."""
        return self.status == ("False" if self.type in GOOD_WHEN_FALSE else "True")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `problem` says why a container is not running or last ended, None when nothing is known against it."""

    name: str
    component: str
    ready: bool
    restarts: int
    problem: str | None
    age: timedelta | None
    image: str


@dataclass(frozen=True, slots=True)
class Event:
    """One Event of the resource or of something it owns."""

    type: str
    reason: str
    about: str
    message: str
    count: int
    age: timedelta | None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything about one pipeline at one moment. Ages are relative to that moment."""

    namespace: str
    name: str
    age: timedelta | None
    generation: int
    observed_generation: int | None
    paused: bool
    deleting: bool
    topic: str | None
    schema: str | None
    endpoint: str | None
    lag: int | None
    conditions: tuple[Condition, ...]
    pods: tuple[Pod, ...]
    events: tuple[Event, ...]

    @property
    def ready(self) -> bool:
        """Return whether the operator says Ready of the resource as it is now, not of an older generation."""
        return self.current and not self.deleting and any(c.type == "Ready" and c.holds for c in self.conditions)

    @property
    def current(self) -> bool:
        """Return whether the operator has seen the latest change."""
        return self.observed_generation is not None and self.observed_generation >= self.generation

    @property
    def verdict(self) -> str:
        """Return one line: how the pipeline is, and what first to look at when it is not well."""
        return f"{self.namespace}/{self.name} {'is ready' if self.ready else 'is NOT ready'}: {self._because()}"

    def _because(self) -> str:
        if self.deleting:
            return "it is being deleted"
        if self.observed_generation is None:
            return "no operator has seen it yet: is the sensorlog operator running?"
        if not self.current:
            return (
                f"the operator has not taken up the latest change (generation {self.generation}, seen "
                f"{self.observed_generation}): see the operator's logs when this lasts"
            )
        if self.ready:
            return self._wellbeing()
        return self._first_problem()

    def _wellbeing(self) -> str:
        counts = [f"{_ready_of(self.pods, component)} {component}" for component in ("ingest", "query")]
        lag = "lag unknown" if self.lag is None else f"lag {self.lag}"
        asides = [
            text for kind, text in _ASIDES.items() if any(c.type == kind and not c.holds for c in self.conditions)
        ]
        return ", ".join([*counts, lag, *(["PAUSED"] if self.paused else []), *asides])

    def _first_problem(self) -> str:
        for condition in self.conditions:
            if not condition.holds and condition.type not in ("Ready", *GOOD_WHEN_FALSE):
                return f"{condition.type} is {condition.status}, {condition.reason}: {condition.message}"
        ready = next((c for c in self.conditions if c.type == "Ready"), None)
        return f"{ready.reason}: {ready.message}" if ready else "it has no conditions yet"


_ASIDES = {"PlanPending": "a PLAN WAITS for approval", "Drifted": "changed BY HAND"}
"""What to say of a pipeline that is well otherwise."""


def status_of(resource: Object, pods: Iterable[Object], events: Iterable[Object], now: datetime) -> Status:
    """Return the facts about `resource`; `pods` are its pods, of `events` those about others are left out."""
    metadata, status = resource["metadata"], resource.get("status", {})
    pods = list(pods)
    return Status(
        namespace=metadata["namespace"],
        name=metadata["name"],
        age=_age(metadata.get("creationTimestamp"), now),
        generation=metadata.get("generation", 1),
        observed_generation=status.get("observedGeneration"),
        paused=resource.get("spec", {}).get("paused", False),
        deleting="deletionTimestamp" in metadata,
        topic=status.get("topic"),
        schema=status.get("schema"),
        endpoint=status.get("endpoint"),
        lag=status.get("lag"),
        conditions=_conditions(status.get("conditions", ()), now),
        pods=tuple(sorted((_pod(pod, now) for pod in pods), key=lambda pod: (pod.component, pod.name))),
        events=_events(events, metadata["name"], {pod["metadata"]["name"] for pod in pods}, now),
    )


def _conditions(conditions: Iterable[Object], now: datetime) -> tuple[Condition, ...]:
    found = [
        Condition(
            type=c["type"],
            status=c["status"],
            reason=c.get("reason", ""),
            message=c.get("message", ""),
            age=_age(c.get("lastTransitionTime"), now),
        )
        for c in conditions
    ]
    return tuple(sorted(found, key=lambda c: (c.holds, _place(c.type))))


def _place(condition: str) -> int:
    return CONDITIONS.index(condition) if condition in CONDITIONS else len(CONDITIONS)


def _pod(pod: Object, now: datetime) -> Pod:
    metadata, status = pod["metadata"], pod.get("status", {})
    containers = status.get("containerStatuses", ())
    return Pod(
        name=metadata["name"],
        component=metadata.get("labels", {}).get("app.kubernetes.io/component", "?"),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())),
        restarts=sum(c.get("restartCount", 0) for c in containers),
        problem=_problem(pod),
        age=_age(metadata.get("creationTimestamp"), now),
        image=", ".join(c.get("image", "?") for c in pod.get("spec", {}).get("containers", ())),
    )


def _problem(pod: Object) -> str | None:
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return "is being deleted"
    parts = [part for c in status.get("containerStatuses", ()) for part in _container_problems(c)]
    if status.get("phase") == "Pending" and not parts:
        parts = [c["message"] for c in status.get("conditions", ()) if c["status"] == "False" and c.get("message")]
    return "; ".join(parts) or None


def _container_problems(container: Object) -> list[str]:
    parts = []
    if waiting := container.get("state", {}).get("waiting"):
        parts.append(_said(waiting.get("reason", "waiting"), waiting.get("message")))
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    if ended:
        reason = f"last ended by {ended.get('reason', 'Error')}, exit status {ended.get('exitCode')}"
        parts.append(_said(reason, ended.get("message")))
    return parts


def _said(reason: str, message: str | None) -> str:
    return f"{reason}: {message.strip()}" if message else reason


def _events(events: Iterable[Object], name: str, pods: Collection[str], now: datetime) -> tuple[Event, ...]:
    """Return the latest Events about pipeline `name` or what it owns: warnings first, then the newest.

    Those about pods that are gone are left out: each rollout leaves warnings of probes that nobody need look at.
    """
    ours = [_event(event, now) for event in events if _is_about(event["involvedObject"], name, pods)]
    ours.sort(key=lambda event: (event.type != "Warning", event.age or timedelta.max))
    return tuple(ours[:MAX_EVENTS])


def _is_about(involved: Object, name: str, pods: Collection[str]) -> bool:
    if involved.get("kind") == "SensorLogPipeline":
        return bool(involved.get("name") == name)
    if involved.get("kind") == "Pod":
        return involved.get("name") in pods
    return str(involved.get("name", "")).startswith((f"{name}-ingest", f"{name}-query"))


def _event(event: Object, now: datetime) -> Event:
    involved, series = event["involvedObject"], event.get("series") or {}
    # Events of events.k8s.io/v1 count in `series`, those of core/v1 in `count` and `lastTimestamp`.
    last = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return Event(
        type=event.get("type", "Normal"),
        reason=event.get("reason", ""),
        about=f"{involved.get('kind')}/{involved.get('name')}",
        message=event.get("message", ""),
        count=series.get("count") or event.get("count") or 1,
        age=_age(last or event["metadata"].get("creationTimestamp"), now),
    )


def _ready_of(pods: Sequence[Pod], component: str) -> str:
    ours = [pod for pod in pods if pod.component == component]
    return f"{sum(pod.ready for pod in ours)}/{len(ours)}"


def _age(timestamp: str | None, now: datetime) -> timedelta | None:
    if timestamp is None:
        return None
    moment = datetime.fromisoformat(timestamp)
    # A clock here that is behind the cluster's must not make things younger than new.
    return max(timedelta(0), now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)))
