"""The conditions of a pipeline's status, and how they are written: only what differs, by server-side apply."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.models import GROUP, KIND, VERSION, Resource

ConditionType = Literal[
    "TopicReady",
    "SchemaReady",
    "AccessReady",
    "IngestReady",
    "QueryReady",
    "FeaturesReady",
    "AutoscalingReady",
    "DataSafe",
    "DataFlowing",
    "PlanPending",
    "Drifted",
    "Ready",
]

FIGURES = (
    "partitions",
    "lag",
    "timeToDataLoss",
    "rowsPerSecond",
    "newestReading",
    "freshness",
    "deadLettersLastHour",
    "chunks",
    "size",
    "sizeBytes",
)
"""What status tells in figures."""

GOOD_WHEN_FALSE: frozenset[ConditionType] = frozenset({"PlanPending", "Drifted"})
"""Conditions that are true when somebody should look."""

CALM = frozenset({Reason.READY, Reason.PROGRESSING, Reason.PAUSED, Reason.WAITING, Reason.APPROVAL_PENDING})
"""Reasons that need nobody's attention: their Events are Normal, all others are Warnings."""


WASTEFUL = frozenset({Reason.PODS_IDLE})
"""Reasons to look at a condition although it is as it should be."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as this reconcile found it. `status` None means Unknown."""

    type: ConditionType
    status: bool | None
    reason: Reason
    message: str

    @classmethod
    def of(cls, kind: ConditionType, error: PipelineError) -> "Condition":
        """Return the condition that an error makes false."""
        return cls(kind, status=False, reason=error.reason, message=error.message)

    def as_type(self, kind: ConditionType) -> "Condition":
        """Return the same finding as another condition."""
        return replace(self, type=kind)

    @property
    def status_text(self) -> str:
        """The status as Kubernetes spells it."""
        return {True: "True", False: "False", None: "Unknown"}[self.status]

    @property
    def warns(self) -> bool:
        """Whether a person should look."""
        bad = self.status is True if self.type in GOOD_WHEN_FALSE else self.status is not True
        return (bad and self.reason not in CALM) or self.reason in WASTEFUL


def ready(parts: Iterable[Condition]) -> Condition:
    """Return the condition Ready: true when all parts are, else what the first that warns (or lacks) says."""
    lacking = sorted((part for part in parts if part.status is not True), key=lambda part: not part.warns)
    if not lacking:
        return Condition("Ready", status=True, reason=Reason.READY, message="Data flows from topic to query service.")
    first = lacking[0]
    return Condition("Ready", status=False, reason=first.reason, message=f"{first.type}: {first.message}")


def changed(conditions: Iterable[Condition], status: Mapping[str, Any]) -> list[Condition]:
    """Return the conditions whose status or reason is not what `status` says: what is worth an Event."""
    before = _by_type(status)
    news = [c for c in conditions if c.type in before or c.type not in GOOD_WHEN_FALSE or c.status]
    return [c for c in news if (c.status_text, c.reason) != tuple(map(before.get(c.type, {}).get, _IDENTITY))]


_IDENTITY = ("status", "reason")


def build_status(
    pipeline: Resource, conditions: Iterable[Condition], fields: Mapping[str, Any], *, complete: bool = False
) -> dict[str, Any]:
    """Return the status to have. A condition keeps its transition time while its status stays.

    Conditions that are not among `conditions` stay as they were, or go where these are complete.
    """
    before = _by_type(pipeline.status)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found: dict[str, Mapping[str, Any]] = {
        c.type: _entry(c, before.get(c.type, {}), pipeline.generation, now) for c in conditions
    }
    gone = {name for name in _CLEARED if name in fields and not fields[name]}
    kept = {name: pipeline.status[name] for name in (*_STICKY, *_CLEARED) if name in pipeline.status.keys() - gone}
    return {
        "observedGeneration": pipeline.generation,
        "conditions": list(found.values() if complete else (before | found).values()),
        **kept,
        **{name: value for name, value in fields.items() if value is not None},
    }


_STICKY = (
    "topic",
    "schema",
    "endpoint",
    "ingest",
    "ingestReplicas",
    "ingestSelector",
    "query",
    *FIGURES,
    "timescaledb",
    "credentials",
    "applied",
)
"""What stays as last seen while Kafka or the database is away; the conditions say that it is old."""


_CLEARED = ("plan", "drift")
"""What stays until a reconcile that looked at all of it says that there is none any more."""


def _entry(condition: Condition, before: Mapping[str, Any], generation: int, now: str) -> dict[str, Any]:
    same = before.get("status") == condition.status_text
    return {
        "type": condition.type,
        "status": condition.status_text,
        "reason": condition.reason.value,
        "message": condition.message,
        "lastTransitionTime": before.get("lastTransitionTime", now) if same else now,
        "observedGeneration": generation,
    }


def _by_type(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {entry["type"]: entry for entry in status.get("conditions", ())}


def status_patch(pipeline: Resource, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object to apply to the status subresource."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": pipeline.name, "namespace": pipeline.namespace, "uid": pipeline.uid},
        "status": dict(status),
    }
