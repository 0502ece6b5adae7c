"""One pass over the steps of a pipeline: observe all, plan all, pass the gate, do what may be done in order.

A step that cannot see its part of the world does not stop the others.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from sensorlog_operator import figures, gate
from sensorlog_operator.children_step import ChildrenStep
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.features_step import FeaturesStep
from sensorlog_operator.gate import Decision, Entry, Nature, Proposal
from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Refusal
from sensorlog_operator.steps import AccessStep, ArmDeletion, Round, SchemaStep, Step, TopicStep

log = structlog.get_logger(__name__)


class Provisioning:
    """One pass; `close` it."""

    def __init__(self, shared: Round) -> None:
        self._round = shared
        self._topics = TopicStep(shared)
        self._schema = SchemaStep(shared)
        self._steps: Sequence[Step] = (
            self._topics,
            self._schema,
            FeaturesStep(shared, self._schema),  # before access: pods may read a rollup as soon as it is there
            AccessStep(shared, self._schema),
            ChildrenStep(shared),
            ArmDeletion(shared),
        )
        self._seen: list[Step] = []

    def close(self) -> None:
        """Let go of what the steps opened."""
        for step in self._steps:
            step.close()

    def decide(self, baseline: Pipeline | None) -> Decision:
        """Look at the world and return what becomes of the plan. `baseline` is the resource as last applied."""
        return gate.decide(self._round.pipeline, [p for step in self._steps if (p := self._propose(step, baseline))])

    def _propose(self, step: Step, baseline: Pipeline | None) -> Proposal | None:
        report = self._round.report
        if not report.unusable.isdisjoint(step.needs):
            return None
        try:
            step.observe()
            actions = step.plan(self._round.pipeline)
            before = step.plan(baseline) if baseline and actions else []
        except PipelineError as e:
            self._failed(step, e)
            return None
        self._seen.append(step)
        return Proposal(step.name, actions, before)

    @property
    def is_at_rest(self) -> bool:
        """Whether all was seen, and nothing is under way that the plan does not tell of. After `decide`."""
        return len(self._seen) == len(self._steps) and not any(step.restless() for step in self._steps)

    def apply(self, decision: Decision) -> None:
        """Do what may be done, and note in the report what came of it."""
        for step in self._steps:
            if step in self._seen:
                self._carry_out(step, decision)
            elif self._round.report.unusable.isdisjoint(step.conditions):
                self._round.report.waits(step.conditions, step.needs)
        self._figures()

    def _carry_out(self, step: Step, decision: Decision) -> None:
        report = self._round.report
        refusals = [a for e in decision.entries if e.step == step.name and isinstance(a := e.action, Refusal)]
        withheld = decision.withheld(step.name)
        if step.blocked(report):
            report.waits(step.conditions, FOUNDATIONS)
            return
        try:
            report.actions += step.apply(decision.allowed(step.name), withheld)
            if refusals:
                report.refused(step.conditions, refusals)
            elif missing := [entry for entry in withheld if entry.action.creates]:
                self._missing(step, missing)
            else:
                step.tell(report)
        except PipelineError as e:
            self._failed(step, e)

    def _failed(self, step: Step, error: PipelineError) -> None:
        for kind in step.conditions:
            self._round.report.failed(kind, error)
        self._round.report.incomplete = True

    def _missing(self, step: Step, entries: list[Entry]) -> None:
        drift = entries[0].nature is Nature.DRIFT
        why = "spec.driftPolicy is Report" if drift else "the plan waits for approval"
        message = f"Not done, because {why}: {'; '.join(entry.action.summary for entry in entries)}."
        for kind in step.conditions:
            self._round.report.missing(kind, Reason.DRIFT_FOUND if drift else Reason.APPROVAL_PENDING, message)

    def _figures(self) -> None:
        report, pipeline = self._round.report, self._round.pipeline
        if not report.holds("SchemaReady"):
            return
        try:
            if stored := self._schema.stored():
                report.status |= figures.stored_fields(stored, pipeline.status, datetime.now(UTC))
            if self._topics.partitions and "TopicReady" not in report.unusable:
                backlog = self._topics.backlog(self._schema.next_offsets())
                report.status |= figures.backlog_fields(backlog, self._topics.retention)
                report.conditions["DataSafe"] = figures.data_safe(backlog, self._topics.retention)
        except PipelineError as e:
            # Figures for people are no reason to fail; a topic made a second ago may not have leaders yet.
            log.info("figures unknown", pipeline=pipeline.key, error=e.message)


FOUNDATIONS = (*TopicStep.conditions, *SchemaStep.conditions, *AccessStep.conditions)
"""What has to be there before pods are."""

ORDER = (*FOUNDATIONS, *ChildrenStep.conditions)
"""The conditions that Ready sums up."""
