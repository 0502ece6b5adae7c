"""Writes docs/reference.md from the models: `python -m sensorlog_operator.reference` prints it."""

import sys
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from sensorlog.reference import HEADER, escaped, resolved, row
from sensorlog_operator.models import GROUP, KIND, VERSION
from sensorlog_operator.spec import MEASUREMENT_RULES, NAME_RULES, PipelineSpec

_INTRODUCTION = f"""\
<!-- Generated from sensorlog_operator.spec by `make generate`; do not edit. -->
# {KIND}

`apiVersion: {GROUP}/{VERSION}`, short name `slp`. `kubectl explain slp.spec` says the same in a terminal.
[conditions.md](conditions.md) has what the status says, [settings.md](settings.md) the settings of the processes, and
[the samples](../k8s/samples) whole resources.

Durations are written like `250ms`, `30m`, `7d` or `1d12h`. A default that is empty means that the thing is not there
unless asked for. A field whose type is *object* has a table of its own below.
"""

Schema = dict[str, Any]


def page() -> str:
    """Return the page; UndocumentedError names a field that lacks a description or an example."""
    refs, top = models_json_schema([(PipelineSpec, "validation")], by_alias=True)
    definitions = top["$defs"]
    definitions["Measurement"].update(MEASUREMENT_RULES)
    root = {**resolved(refs[(PipelineSpec, "validation")], definitions)}
    root["x-kubernetes-validations"] = [*root.get("x-kubernetes-validations", ()), *_rules(NAME_RULES)]
    return "\n".join([_INTRODUCTION, *_sections("spec", root, definitions)])


def _rules(schema: Schema) -> list[Schema]:
    found: list[Schema] = schema.get("x-kubernetes-validations", [])
    return found


def _sections(path: str, schema: Schema, definitions: Schema) -> Iterator[str]:
    """Yield the section of an object, then those of the objects within it."""
    fields = {name: resolved(each, definitions) for name, each in schema["properties"].items()}
    nested = {name: inner for name, each in fields.items() if (inner := _object_in(each, definitions))}
    rows = "".join(_row(name, each, definitions, schema) for name, each in fields.items())
    rules = "".join(f"- {escaped(rule['message'])}\n" for rule in _rules(schema))
    yield f"## `{path}`\n\n{escaped(schema['description'])}\n\n{HEADER.format(name='Field')}{rows}" + (
        f"\nThe API server refuses a resource that breaks one of these:\n\n{rules}" if rules else ""
    )
    for name, inner in nested.items():
        suffix = "[]" if fields[name].get("type") == "array" else ""
        yield from _sections(f"{path}.{name}{suffix}", inner, definitions)


def _object_in(schema: Schema, definitions: Schema) -> Schema | None:
    """Return the object with fields that a field is, or is a list of."""
    inner = resolved(schema["items"], definitions) if schema.get("type") == "array" else schema
    return inner if inner.get("properties") else None


def _row(name: str, schema: Schema, definitions: Schema, parent: Schema) -> str:
    required = name in parent.get("required", ())
    description = " ".join([schema.get("description", ""), *_fixed(schema)])
    if schema.get("type") == "object" and _object_in(schema, definitions):
        return f"| `{name}` | object | {'**required**' if required else ''} | | | {escaped(description)} |\n"
    return row(name, {**schema, "description": description}, definitions, required=required)


def _fixed(schema: Schema) -> Iterator[str]:
    if any(rule["rule"] == "self == oldSelf" for rule in _rules(schema)):
        yield "Cannot be changed after creation."


if __name__ == "__main__":
    sys.stdout.write(page())
