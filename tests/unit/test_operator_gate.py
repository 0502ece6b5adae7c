"""What passes the gate: changes, drift, what may destroy data, and what is left of an approved plan."""

from typing import Any

import pytest

from sensorlog_operator import gate
from sensorlog_operator.errors import Reason
from sensorlog_operator.gate import Decision, Nature, Proposal
from sensorlog_operator.models import APPROVE, Pipeline
from sensorlog_operator.plans import Action, Refusal, plan_hash
from support.resources import pipeline_body

GROW = Action("grow topic readings from 6 to 12 partitions", risk="keys map to other partitions from then on")
SHORTEN = Action("set retention.ms from 2 to 1 on topic readings")
COLUMN = Action("add column humidity", creates=True)
ROLL = Action("update Deployment plant-ingest", upkeep=True)
DESTROY = Action("delete topics when the resource is deleted", dangerous=True)
SHRINK = Refusal("Kafka cannot remove partitions", Reason.PARTITIONS_CANNOT_SHRINK)


def decide(
    *actions: Action, baseline: tuple[Action, ...] = (), approve: str = "", plan: Any = None, **spec: Any
) -> Decision:
    """Return what becomes of actions of one step."""
    body = pipeline_body(**spec)
    body["metadata"]["annotations"] = {APPROVE: approve}
    body["status"] = {"plan": plan} if plan else {}
    return gate.decide(Pipeline.from_body(body), [Proposal("topics", actions, baseline)])


def test_changes_are_done_without_asking_by_default() -> None:
    """That is what a declarative resource is for."""
    decision = decide(GROW, COLUMN)
    assert decision.allowed("topics") == [GROW, COLUMN]
    assert not decision.pending


def test_a_change_waits_with_manual_approval() -> None:
    """It shows in status with its risk, and nothing is done."""
    decision = decide(GROW, approval="Manual")
    assert decision.allowed("topics") == []
    (shown,) = decision.to_status()["actions"]
    assert (shown["summary"], shown["risk"]) == (GROW.summary, GROW.risk)
    assert not decision.to_status()["approved"]


def test_the_hash_approves_its_plan_and_no_other() -> None:
    """One action more makes another plan."""
    name = decide(GROW, approval="Manual").hash
    assert decide(GROW, approval="Manual", approve=name).allowed("topics") == [GROW]
    changed = decide(GROW, COLUMN, approval="Manual", approve=name)
    assert changed.allowed("topics") == []
    assert changed.hash != name


def test_another_generation_makes_another_plan() -> None:
    """An approval is of what a person saw, not of what the resource says later."""
    assert plan_hash(1, ["a"]) != plan_hash(2, ["a"])


def test_what_is_left_of_an_approved_plan_stays_approved() -> None:
    """An operator killed in the middle goes on, because status holds the plan."""
    whole = decide(GROW, COLUMN, approval="Manual")
    approved = {**whole.to_status(), "approved": True}
    rest = decide(COLUMN, approval="Manual", approve=whole.hash, plan=approved)
    assert rest.allowed("topics") == [COLUMN]
    assert rest.ongoing


@pytest.mark.parametrize(
    ("change", "approve"),
    [({"approved": False}, "hash"), ({"generation": 7}, "hash"), ({}, "another"), ({}, "")],
    ids=["never approved", "another generation", "another approval", "approval withdrawn"],
)
def test_a_plan_in_status_approves_nothing_by_itself(change: dict[str, Any], approve: str) -> None:
    """It must have been approved, be of this generation, and still be the one that the annotation names."""
    whole = decide(GROW, COLUMN, approval="Manual")
    plan = {**whole.to_status(), "approved": True, **change}
    decision = decide(COLUMN, approval="Manual", approve=whole.hash if approve == "hash" else approve, plan=plan)
    assert decision.allowed("topics") == []


def test_what_was_not_in_the_approved_plan_waits() -> None:
    """Also beside something that was."""
    whole = decide(GROW, approval="Manual")
    plan = {**whole.to_status(), "approved": True}
    assert decide(GROW, COLUMN, approval="Manual", approve=whole.hash, plan=plan).allowed("topics") == []


def test_a_plan_of_very_many_actions_stays_approved_whole() -> None:
    """Status shows the first hundred and remembers all."""
    actions = [Action(f"add column c{n}") for n in range(gate.MAX_ACTIONS + 20)]
    whole = decide(*actions, approval="Manual")
    status = {**whole.to_status(), "approved": True}
    assert len(status["actions"]) == gate.MAX_ACTIONS
    assert decide(*actions[5:], approval="Manual", approve=whole.hash, plan=status).allowed("topics") == actions[5:]


@pytest.mark.parametrize("approval", ["Automatic", "Manual"])
def test_drift_is_repaired_by_default(approval: str) -> None:
    """What the resource as last applied asks for too was approved once."""
    decision = decide(SHORTEN, baseline=(SHORTEN,), approval=approval)
    assert decision.allowed("topics") == [SHORTEN]
    assert [entry.action for entry in decision.repaired] == [SHORTEN]


def test_drift_is_only_reported_where_the_resource_says_so() -> None:
    """A change beside it is done."""
    decision = decide(SHORTEN, COLUMN, baseline=(SHORTEN,), driftPolicy="Report")
    assert decision.allowed("topics") == [COLUMN]
    assert [entry.action for entry in decision.reported] == [SHORTEN]
    assert not decision.pending


def test_drift_that_cannot_be_repaired_is_reported() -> None:
    """Partitions that were added by hand stay."""
    decision = decide(SHRINK, baseline=(SHRINK,))
    assert [entry.nature for entry in decision.reported] == [Nature.IRREPARABLE]
    assert not decide(SHRINK).reported


def test_a_renewed_secret_rolls_pods_without_asking() -> None:
    """Neither the resource changed nor the world."""
    decision = decide(ROLL, baseline=(ROLL,), approval="Manual", driftPolicy="Report")
    assert decision.allowed("topics") == [ROLL]


@pytest.mark.parametrize("approval", ["Automatic", "Manual"])
def test_what_may_destroy_data_always_waits(approval: str) -> None:
    """Whatever the resource says of approval; what else there is goes on without it."""
    decision = decide(DESTROY, ROLL, baseline=(ROLL,), approval=approval)
    assert decision.allowed("topics") == [ROLL]
    assert decision.to_status()["actions"][0]["dangerous"]


def test_a_long_detail_is_cut_in_status_and_not_in_the_hash() -> None:
    """A status must stay small; an approval is of all of it."""

    class Long(Action):
        """An action with a detail of any length."""

        @property
        def detail(self) -> str:
            return "x" * gate.MAX_DETAIL + self.risk

    plans = [decide(Long("do", risk=risk), approval="Manual") for risk in ("a", "b")]
    assert plans[0].hash != plans[1].hash
    assert len(plans[0].to_status()["actions"][0]["detail"]) < gate.MAX_DETAIL + 50
