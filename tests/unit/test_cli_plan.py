"""Plans for people and programs, from what the operator writes."""

from typing import Any

import pytest
from rich.console import Console

from sensorlog_cli.plans import Plan, page

GROW = {
    "id": "1",
    "step": "topics",
    "summary": "grow topic readings from 6 to 12 partitions",
    "risk": "keys map to other partitions from then on",
}
TABLE = {"id": "2", "step": "schema", "summary": "create table s.sensors", "detail": "CREATE TABLE [s].sensors ()"}
DESTROY = {"id": "3", "step": "deletion", "summary": "delete topics", "risk": "gone for good", "dangerous": True}


def resource(*actions: dict[str, Any], approved: bool = False, observed: int = 2, **status: Any) -> dict[str, Any]:
    """Return a resource whose status holds a plan of these actions."""
    plan = {"plan": {"hash": "abc123", "approved": approved, "actions": list(actions)}} if actions else {}
    metadata = {"namespace": "plants", "name": "demo", "generation": 2}
    return {"metadata": metadata, "status": {"observedGeneration": observed, **plan, **status}}


def shown(plan: Plan) -> str:
    """Return the page as a terminal without colours would show it."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(page(plan))
    return captured.get()


def test_a_plan_shows_each_action_with_risk_and_statement() -> None:
    """In the order in which they would be done; brackets are no markup."""
    text = shown(Plan.of_resource(resource(GROW, TABLE)))
    assert text.index("~ grow topic") < text.index("risk: keys map") < text.index("+ create table s.sensors")
    assert "CREATE TABLE [s].sensors ()" in text
    assert "plan abc123 needs approval" in text


def test_danger_is_said_in_capitals() -> None:
    """It may be read where there are no colours."""
    assert "DANGER: gone for good" in shown(Plan.of_resource(resource(DESTROY)))


def test_colours_are_there_on_a_terminal() -> None:
    """Red for what may destroy, green for what is made."""
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as captured:
        console.print(page(Plan.of_resource(resource(TABLE, DESTROY))))
    assert "\x1b[32m  + create table" in captured.get()
    assert "\x1b[1;31m  - delete topics" in captured.get()


def test_without_a_plan_nothing_is_to_be_done() -> None:
    """That is what exit code 0 says."""
    plan = Plan.of_resource(resource())
    assert not plan.to_do
    assert "nothing waits" in shown(plan)


def test_an_approved_plan_does_not_wait() -> None:
    """It is being carried out, and is still something to do."""
    plan = Plan.of_resource(resource(GROW, approved=True))
    assert (plan.to_do, plan.waits) == (True, False)


def test_reported_drift_is_shown_and_repaired_drift_is_history() -> None:
    """The one is as it is now."""
    drift = [{"state": "Reported", "summary": "set retention.ms"}, {"state": "Repaired", "summary": "create index"}]
    text = shown(Plan.of_resource(resource(drift=drift)))
    assert "set retention.ms" in text
    assert "create index" not in text


def test_a_change_that_the_operator_has_not_seen_is_said() -> None:
    """No plan yet is no plan at all."""
    assert "has not seen the latest change" in shown(Plan.of_resource(resource(observed=1)))


@pytest.mark.parametrize(("nature", "to_do"), [("Change", True), ("Drift", True), ("Refused", False)])
def test_what_is_refused_is_nothing_to_do(nature: str, to_do: bool) -> None:  # noqa: FBT001
    """It is shown, because applying the file will not bring it about."""
    answer = {"hash": "", "actions": [{**GROW, "nature": nature, "needsApproval": False}], "problems": ["Kafka away"]}
    plan = Plan.of_answer("plants/demo", answer)
    assert plan.to_do is to_do
    assert GROW["summary"] in shown(plan)
    assert "Kafka away" in shown(plan)
