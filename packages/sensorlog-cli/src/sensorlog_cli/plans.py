"""Plans as the operator writes them: into a resource's status, or in answer to a question. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Group
from rich.text import Text

APPROVE = "sensorlog.dev/approve"
"""The annotation that approves the plan whose hash it names."""

_REFUSED = ("Refused", "Irreparable")
_MARKS = {"create": ("+", "green"), "delete": ("-", "red"), "repair": ("!", "yellow"), "refused": ("x", "red")}
_CHANGE = ("~", "yellow")


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done. `actions` are as the operator writes them; `hash` is empty where nothing needs approval."""

    pipeline: str
    hash: str = ""
    approved: bool = False
    actions: tuple[Mapping[str, Any], ...] = ()
    drift: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    more: int = 0
    """Actions that status has no room for."""
    current: bool = True
    """Whether the operator has seen the latest change."""

    @classmethod
    def of_resource(cls, resource: Mapping[str, Any]) -> Self:
        """Return the plan that a resource's status holds."""
        metadata, status = resource["metadata"], resource.get("status", {})
        plan = status.get("plan", {})
        return cls(
            pipeline=f"{metadata['namespace']}/{metadata['name']}",
            hash=plan.get("hash", ""),
            approved=plan.get("approved", False),
            actions=tuple(plan.get("actions", ())),
            drift=tuple(found for found in status.get("drift", ()) if found["state"] == "Reported"),
            more=len(plan.get("more", ())),
            current=status.get("observedGeneration", 0) >= metadata.get("generation", 1),
        )

    @classmethod
    def of_answer(cls, pipeline: str, answer: Mapping[str, Any]) -> Self:
        """Return the plan of the operator's answer."""
        return cls(pipeline, answer["hash"], actions=tuple(answer["actions"]), problems=tuple(answer["problems"]))

    @property
    def to_do(self) -> bool:
        """Return whether anything would be changed."""
        return any(action.get("nature") not in _REFUSED for action in self.actions) or self.more > 0

    @property
    def waits(self) -> bool:
        """Return whether it needs an approval that it does not have."""
        return bool(self.hash) and not self.approved

    def document(self) -> dict[str, Any]:
        """Return it as JSON for programs."""
        return {
            "pipeline": self.pipeline,
            "hash": self.hash,
            "approved": self.approved,
            "current": self.current,
            "actions": list(self.actions),
            "more": self.more,
            "drift": list(self.drift),
            "problems": list(self.problems),
        }


def page(plan: Plan) -> Group:
    """Return a plan for people, in colour where the terminal has it."""
    return Group(*_lines(plan))


def _lines(plan: Plan) -> Iterator[Text]:
    yield Text(_headline(plan), style="bold")
    for action in plan.actions:
        yield from _action(action)
    if plan.more:
        yield Text(f"  and {plan.more} more")
    yield from _listed("Changed by hand, and left so; this would set it back:", (d["summary"] for d in plan.drift))
    yield from _listed("Not looked at, or not possible:", plan.problems)
    if not plan.current:
        yield Text("The operator has not seen the latest change yet: look again.", style="yellow")


def _headline(plan: Plan) -> str:
    if not plan.actions:
        return f"{plan.pipeline}: nothing waits to be done."
    if plan.approved:
        return f"{plan.pipeline}: plan {plan.hash} is approved and being carried out."
    return f"{plan.pipeline}: plan {plan.hash} needs approval." if plan.hash else f"{plan.pipeline}: would be done:"


def _action(action: Mapping[str, Any]) -> Iterator[Text]:
    mark, style = _mark(action)
    why = " (by hand before)" if action.get("nature") == "Drift" else ""
    yield Text(f"  {mark} {action['summary']}{why}", style="bold red" if action.get("dangerous") else style)
    if risk := action.get("risk"):
        yield Text(f"      {'DANGER' if action.get('dangerous') else 'risk'}: {risk}", style="red")
    for line in action.get("detail", "").splitlines():
        yield Text(f"      {line}", style="dim")


def _mark(action: Mapping[str, Any]) -> tuple[str, str]:
    if action.get("nature") in _REFUSED:
        return _MARKS["refused"]
    return _MARKS.get(action["summary"].partition(" ")[0], _CHANGE)


def _listed(title: str, items: Iterable[str]) -> Iterator[Text]:
    for number, item in enumerate(items):
        if number == 0:
            yield Text(title, style="bold yellow")
        yield Text(f"  ! {item}", style="yellow")
