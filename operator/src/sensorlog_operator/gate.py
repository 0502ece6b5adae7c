"""What may be done of a plan now, what waits for approval, and what is only reported. Pure.

An action is *drift* when the resource as last applied asks for it too: then the world changed, not the resource. It is
*upkeep* when so, but because of what the operator was given (a Secret was renewed). Everything else is a *change*.

    change     waits for approval with spec.approval Manual
    drift      is repaired or reported, as spec.driftPolicy says
    upkeep     is done
    dangerous  waits for approval always
    refusal    is told, never done; one about drift is reported as drift too

An approval names a plan's hash. Once it was found, the plan is kept in status until all of it is done: what is left of
it stays approved, also for an operator that starts again in the middle.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Action, Refusal, identity, plan_hash

MAX_ACTIONS = 100
MAX_DETAIL = 2_000
"""Characters of a detail in status: an object in etcd holds 1.5 MiB at most, all of its history in managedFields."""


class Nature(StrEnum):
    """Why an action is planned."""

    CHANGE = "Change"
    DRIFT = "Drift"
    UPKEEP = "Upkeep"
    REFUSED = "Refused"
    IRREPARABLE = "Irreparable"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one step plans, and what it would plan for the resource as it was last applied."""

    step: str
    actions: Sequence[Action]
    baseline: Sequence[Action] = ()

    def nature(self, action: Action) -> Nature:
        """Return why an action is planned."""
        known = action in self.baseline
        if isinstance(action, Refusal):
            return Nature.IRREPARABLE if known else Nature.REFUSED
        if not known:
            return Nature.CHANGE
        return Nature.UPKEEP if action.upkeep else Nature.DRIFT


@dataclass(frozen=True, slots=True)
class Entry:
    """An action of a plan, as status shows it."""

    step: str
    action: Action
    nature: Nature

    @property
    def id(self) -> str:
        """What tells it from others."""
        return identity(self.step, self.action)

    def to_status(self) -> dict[str, Any]:
        """Return it as an item of status.plan.actions, without what it has not."""
        texts = {"risk": self.action.risk, "detail": _bounded(self.action.detail)}
        return {
            "id": self.id,
            "step": self.step,
            "summary": self.action.summary,
            **{name: text for name, text in texts.items() if text},
            **({"dangerous": True} if self.action.dangerous else {}),
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """The plan that status holds."""

    hash: str = ""
    generation: int = 0
    approved: bool = False
    ids: frozenset[str] = frozenset()

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Self:
        """Return the plan of a status; an empty one where there is none."""
        plan = status.get("plan") or {}
        ids = frozenset((*(action["id"] for action in plan.get("actions", ())), *plan.get("more", ())))
        return cls(plan.get("hash", ""), plan.get("generation", 0), plan.get("approved", False), ids)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a plan. `hash` names what needs approval, empty where nothing does."""

    entries: Sequence[Entry] = ()
    hash: str = ""
    generation: int = 0
    approved: bool = False
    asking: Sequence[Entry] = ()
    """What needs approval, whether it has it or not."""
    reported: Sequence[Entry] = ()
    """Drift that is left as it is."""
    ongoing: bool = field(default=False)
    """Whether this is what is left of a plan that status holds already."""

    @property
    def pending(self) -> Sequence[Entry]:
        """What waits for approval."""
        return () if self.approved else self.asking

    @property
    def repaired(self) -> list[Entry]:
        """Drift that is set back."""
        withheld = (*self.pending, *self.reported)
        return [entry for entry in self.entries if entry.nature is Nature.DRIFT and entry not in withheld]

    def withheld(self, step: str) -> list[Entry]:
        """Return what is not done of a step, for either reason."""
        return [entry for entry in (*self.pending, *self.reported) if entry.step == step]

    def allowed(self, step: str) -> list[Action]:
        """Return what is done of a step, in order."""
        withheld = self.withheld(step)
        mine = [entry for entry in self.entries if entry.step == step and entry not in withheld]
        return [entry.action for entry in mine if not isinstance(entry.action, Refusal)]

    def to_status(self) -> dict[str, Any]:
        """Return status.plan."""
        return {
            "hash": self.hash,
            "generation": self.generation,
            "approved": self.approved,
            "actions": [entry.to_status() for entry in self.asking[:MAX_ACTIONS]],
            **({"more": [entry.id for entry in self.asking[MAX_ACTIONS:]]} if self.asking[MAX_ACTIONS:] else {}),
        }


def decide(pipeline: Pipeline, proposals: Iterable[Proposal]) -> Decision:
    """Return what becomes of the steps' plans."""
    entries = [
        Entry(proposal.step, action, proposal.nature(action)) for proposal in proposals for action in proposal.actions
    ]
    left = {Nature.IRREPARABLE, *([Nature.DRIFT] if pipeline.spec.drift_policy == "Report" else [])}
    reported = [entry for entry in entries if entry.nature in left]
    asking = [entry for entry in entries if entry not in reported and _asks(pipeline, entry)]
    if not asking:
        return Decision(entries, reported=reported)
    ids = [entry.id for entry in asking]
    recorded = Recorded.from_status(pipeline.status)
    if _goes_on(pipeline, recorded, ids):
        return Decision(entries, recorded.hash, pipeline.generation, True, asking, reported, ongoing=True)  # noqa: FBT003
    name = plan_hash(pipeline.generation, ids)
    return Decision(entries, name, pipeline.generation, pipeline.approval == name, asking, reported)


def _asks(pipeline: Pipeline, entry: Entry) -> bool:
    if isinstance(entry.action, Refusal):
        return False
    return entry.action.dangerous or (pipeline.spec.approval == "Manual" and entry.nature is Nature.CHANGE)


def _goes_on(pipeline: Pipeline, recorded: Recorded, ids: Iterable[str]) -> bool:
    current = recorded.approved and recorded.generation == pipeline.generation and recorded.hash == pipeline.approval
    return current and recorded.ids.issuperset(ids)


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]}\n... {len(text) - MAX_DETAIL} characters more"
