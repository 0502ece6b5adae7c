"""What one reconcile found and did, from which conditions, status and Events are told."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sensorlog_operator import metrics
from sensorlog_operator.conditions import Condition, ConditionType
from sensorlog_operator.errors import PipelineError, Reason, UnavailableError
from sensorlog_operator.plans import Action, Refusal


@dataclass(slots=True)
class Report:
    """What one reconcile found and did. `retry` asks to come again soon."""

    conditions: dict[ConditionType, Condition] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    """What was done."""
    unusable: set[ConditionType] = field(default_factory=set)
    """What is not there yet, or not to be had now."""
    forbidden: bool = False
    """Whether the pipeline has no right to run: its topic or schema belongs to another."""
    incomplete: bool = False
    """Whether something failed, was refused or could not be seen, so that not all is as the resource says."""
    retry: bool = False

    def holds(self, kind: ConditionType) -> bool:
        """Return whether a condition was found to be true."""
        return kind in self.conditions and self.conditions[kind].status is True

    def true(self, kind: ConditionType, message: str, reason: Reason = Reason.READY) -> None:
        """Note that a condition holds."""
        self.conditions[kind] = Condition(kind, status=True, reason=reason, message=message)

    def not_yet(self, kind: ConditionType, reason: Reason, message: str) -> None:
        """Note that a condition does not hold."""
        self.conditions[kind] = Condition(kind, status=False, reason=reason, message=message)

    def waits(self, kinds: Iterable[ConditionType], needed: Iterable[ConditionType]) -> None:
        """Note that conditions cannot hold before others do."""
        lacking = " and ".join(kind for kind in needed if not self.holds(kind))
        for kind in kinds:
            self.not_yet(kind, Reason.WAITING, f"Waits for {lacking}.")
        self.incomplete = True

    def failed(self, kind: ConditionType, error: PipelineError) -> None:
        """Note what keeps a condition from holding, and whether coming again soon may help."""
        self.conditions[kind] = Condition.of(kind, error)
        metrics.ERRORS.labels(error.reason).inc()
        self.unusable.add(kind)
        self.incomplete = True
        self.retry |= isinstance(error, UnavailableError)

    def missing(self, kind: ConditionType, reason: Reason, message: str) -> None:
        """Note that what a condition is about is not there, and why it is not made."""
        self.not_yet(kind, reason, message)
        self.unusable.add(kind)

    def refused(self, kinds: Iterable[ConditionType], refusals: list[Refusal]) -> None:
        """Note what will not be done, and whether the pipeline may run without it."""
        for kind in kinds:
            self.not_yet(kind, refusals[0].reason, " ".join(refusal.summary for refusal in refusals))
        self.forbidden |= any(refusal.blocking for refusal in refusals)
        self.incomplete = True
