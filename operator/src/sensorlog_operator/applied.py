"""What status remembers for the next reconcile: the resource as last applied, the plan that waits, the drift found.

Nothing of it is needed to bring a pipeline to what its resource says. It tells a change from drift, and lets an
operator that starts again in the middle of an approved plan go on with it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import Reason
from sensorlog_operator.gate import Decision, Entry, Recorded
from sensorlog_operator.models import APPROVE, Pipeline
from sensorlog_operator.report import Report
from sensorlog_operator.spec import PipelineSpec

RELEASE = version("sensorlog-operator")
"""Another release may want other tables and children for the same resource: that is a change, and no drift."""

MAX_REPAIRED = 10
MAX_REPORTED = 50
MAX_NAMED = 5
"""How many actions a message names."""


def baseline(pipeline: Pipeline) -> Pipeline | None:
    """Return the pipeline as it was last applied; None where that is not known, and everything is a change."""
    applied = pipeline.status.get("applied") or {}
    if applied.get("release") != RELEASE:
        return None
    try:
        spec = PipelineSpec.model_validate(applied.get("spec"))
    except ValidationError:
        return None
    return pipeline.model_copy(update={"spec": spec})


def fields(pipeline: Pipeline, decision: Decision, report: Report) -> dict[str, Any]:
    """Return what status is to say of plan, drift and what was applied; None for what it is to say no more."""
    done = not report.incomplete and not decision.pending
    return {
        "plan": plan_field(pipeline, decision, done=done),
        "drift": _drift(pipeline, decision, report) or None,
        **({"applied": _applied(pipeline)} if done else {}),
    }


def _applied(pipeline: Pipeline) -> dict[str, Any]:
    return {"release": RELEASE, "spec": pipeline.spec.model_dump(mode="json", by_alias=True, exclude_none=True)}


def plan_field(pipeline: Pipeline, decision: Decision, *, done: bool = False) -> dict[str, Any] | None:
    """Return status.plan. One that was approved stays until all of it is `done`: what is left stays approved."""
    if done:
        return None
    recorded = Recorded.from_status(pipeline.status)
    goes_on = recorded.approved and recorded.generation == pipeline.generation and recorded.hash == pipeline.approval
    if decision.ongoing or (goes_on and not decision.asking):
        return dict(pipeline.status["plan"])
    return decision.to_status() if decision.asking else None


def _drift(pipeline: Pipeline, decision: Decision, report: Report) -> list[dict[str, Any]]:
    before = {(entry["state"], entry["id"]): entry for entry in pipeline.status.get("drift", ())}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    reported = [
        before.get(("Reported", entry.id)) or _found(entry, "Reported", now)
        for entry in decision.reported[:MAX_REPORTED]
    ]
    summaries = {action.summary for action in report.actions}
    repaired = [_found(entry, "Repaired", now) for entry in decision.repaired if entry.action.summary in summaries]
    former = [entry for (state, _), entry in before.items() if state == "Repaired"]
    return [*reported, *[*repaired, *former][:MAX_REPAIRED]]


def _found(entry: Entry, state: str, now: str) -> dict[str, Any]:
    return {"id": entry.id, "step": entry.step, "summary": entry.action.summary, "state": state, "at": now}


def conditions(pipeline: Pipeline, decision: Decision) -> list[Condition]:
    """Return the conditions PlanPending and Drifted. Unlike the others they are true when somebody should look."""
    return [_plan_pending(pipeline, decision), _drifted(decision)]


def _plan_pending(pipeline: Pipeline, decision: Decision) -> Condition:
    if not decision.pending:
        return Condition("PlanPending", status=False, reason=Reason.NOTHING_PENDING, message="No plan waits.")
    message = (
        f"Plan {decision.hash} waits for approval: {_named(decision.pending)}. Look at it with sensorlog plan"
        f" {pipeline.name} -n {pipeline.namespace}; approve it with --approve, or the annotation"
        f" {APPROVE}={decision.hash}."
    )
    return Condition("PlanPending", status=True, reason=Reason.APPROVAL_PENDING, message=message)


def _drifted(decision: Decision) -> Condition:
    if not decision.reported:
        return Condition("Drifted", status=False, reason=Reason.NO_DRIFT, message="Nothing is left that was changed.")
    message = f"Changed by hand and left so; what would set it back: {_named(decision.reported)}"
    return Condition("Drifted", status=True, reason=Reason.DRIFT_FOUND, message=message)


def _named(entries: Sequence[Entry]) -> str:
    names = "; ".join(entry.action.summary for entry in entries[:MAX_NAMED])
    more = len(entries) - MAX_NAMED
    return f"{names}; and {more} more" if more > 0 else names


def newly_reported(status: Mapping[str, Any], decision: Decision) -> list[Entry]:
    """Return the drift that status did not report before."""
    before = {entry["id"] for entry in status.get("drift", ()) if entry["state"] == "Reported"}
    return [entry for entry in decision.reported if entry.id not in before]
