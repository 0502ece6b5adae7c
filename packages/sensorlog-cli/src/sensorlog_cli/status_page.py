"""How a pipeline's status is shown: one page for a person, one document for a program."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sensorlog_cli.output import plain_table
from sensorlog_cli.status import Condition, Event, Pod, Status

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"


def page(status: Status) -> RenderableType:
    """Return the page of one pipeline: the verdict, then what is wrong before what is right."""
    parts = [_verdict(status), Text(), _resource(status)]
    for section in (_conditions(status.conditions), _pods(status.pods), _events(status.events)):
        parts += [Text(), section]
    return Group(*parts)


def summary(statuses: Sequence[Status]) -> RenderableType:
    """Return one line for each of several pipelines: the verdict on it, those that are not well first."""
    return Group(*map(_verdict, sorted(statuses, key=lambda s: (s.ready, s.namespace, s.name))))


def document(status: Status) -> dict[str, Any]:
    """Return the status as JSON can say it; ages are in seconds."""
    facts = {field.name: getattr(status, field.name) for field in fields(status)}
    for part in ("conditions", "pods", "events"):
        facts[part] = [_plain(asdict(each)) for each in facts[part]]
    return {"ready": status.ready, "verdict": status.verdict, **_plain(facts)}


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "age_seconds" if key == "age" else key: int(value.total_seconds()) if isinstance(value, timedelta) else value
        for key, value in facts.items()
    }


def short_age(age: timedelta | None) -> str:
    """Return an age as kubectl writes it: its largest unit, or two where one says too little."""
    if age is None:
        return "-"
    seconds = int(age.total_seconds())
    for unit, letter, smaller, small_letter in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "m")):
        if seconds >= unit:
            rest = seconds % unit // smaller
            return f"{seconds // unit}{letter}{f'{rest}{small_letter}' if rest else ''}"
    return f"{seconds // _MINUTE}m" if seconds >= 2 * _MINUTE else f"{seconds}s"


def _verdict(status: Status) -> Text:
    return Text.assemble(("● ", _GOOD if status.ready else _BAD), (status.verdict, "bold"))


def _resource(status: Status) -> RenderableType:
    table = plain_table(None, ("", False), ("", False))
    table.show_header = False
    seen = "never seen" if status.observed_generation is None else f"seen {status.observed_generation}"
    rows = (
        ("resource", f"generation {status.generation}, {seen}, age {short_age(status.age)}"),
        ("paused", "yes: nothing is changed until spec.paused is false" if status.paused else None),
        ("topic", status.topic),
        ("schema", status.schema),
        ("endpoint", status.endpoint),
        ("lag", None if status.lag is None else f"{status.lag} messages"),
    )
    for label, value in rows:
        if value is not None:
            table.add_row(Text(label, _QUIET), Text(value))
    return table


def _conditions(conditions: Sequence[Condition]) -> RenderableType:
    if not conditions:
        return Text("no conditions", _QUIET)
    table = plain_table(None, *_headers("CONDITION", "STATUS", "REASON", "AGE", "MESSAGE"))
    for c in conditions:
        style = _GOOD if c.holds else _BAD
        table.add_row(Text(c.type), Text(c.status, style), Text(c.reason), Text(short_age(c.age)), Text(c.message))
    return table


def _pods(pods: Sequence[Pod]) -> RenderableType:
    if not pods:
        return Text("no pods", _QUIET)
    table = plain_table(None, *_headers("POD", "READY", "RESTARTS", "AGE", "IMAGE", "PROBLEM"))
    for pod in pods:
        ready = Text("yes", _GOOD) if pod.ready else Text("no", _BAD)
        restarts = Text(str(pod.restarts), _BAD if pod.restarts else "")
        table.add_row(
            Text(pod.name), ready, restarts, Text(short_age(pod.age)), Text(pod.image), Text(pod.problem or "-")
        )
    return table


def _events(events: Sequence[Event]) -> RenderableType:
    if not events:
        return Text("no recent events", _QUIET)
    table = plain_table(None, *_headers("EVENT", "REASON", "AGE", "TIMES", "ABOUT", "MESSAGE"))
    style: Callable[[Event], str] = lambda event: _BAD if event.type == "Warning" else ""  # noqa: E731
    for event in events:
        table.add_row(
            Text(event.type, style(event)),
            Text(event.reason),
            Text(short_age(event.age)),
            Text(str(event.count)),
            Text(event.about),
            Text(event.message),
        )
    return table


def _headers(*names: str) -> list[tuple[str, bool]]:
    return [(name, False) for name in names]
