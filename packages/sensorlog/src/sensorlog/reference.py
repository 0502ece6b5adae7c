"""Reference pages from models: tables of fields as Markdown, with type, default, limits and an example of each.

`python -m sensorlog.reference sensorlog_ingest sensorlog_query` prints the page of the settings of these packages.
"""

import importlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]

HEADER = "| {name} | Type | Default | Limits | Example | |\n|---|---|---|---|---|---|\n"


class UndocumentedError(Exception):
    """A field lacks what the reference has to say of it; the message names the field."""


def resolved(schema: Schema, definitions: Schema) -> dict[str, Any]:
    """Return a field's JSON schema with its reference followed and `X | None` taken as X."""
    if reference := schema.get("$ref"):
        return {**definitions[reference.rsplit("/", 1)[1]], **{k: v for k, v in schema.items() if k != "$ref"}}
    if "anyOf" in schema:
        members = [member for member in schema["anyOf"] if member.get("type") != "null"]
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        if len(members) == 1:
            return {**resolved(members[0], definitions), **rest}
        return {"type": " or ".join(member["type"] for member in members), **rest}
    return dict(schema)


def type_of(schema: Schema, definitions: Schema) -> str:
    """Return a type as people say it."""
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(code, schema.get("enum", (schema.get("const"),))))
    match schema["type"]:
        case "array" if "items" in schema:
            return f"list of {type_of(resolved(schema['items'], definitions), definitions)}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"map to {type_of(resolved(schema['additionalProperties'], definitions), definitions)}"
        case kind:
            return str(kind)


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "{} characters or more",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
    "pattern": "`{}`",
}


def limits_of(schema: Schema) -> str:
    """Return what a value must satisfy besides its type."""
    return ", ".join(text.format(escaped(schema[key])) for key, text in _BOUNDS.items() if key in schema)


def example_of(schema: Schema) -> Any:
    """Return a value that could stand there; None where the schema offers none."""
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("type") == "boolean":
        return not schema.get("default")
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    others = [choice for choice in choices if choice != schema.get("default")]
    return next(iter(others), schema.get("default"))


def code(value: Any) -> str:
    """Return a value as code: text as it is, everything else as JSON."""
    return f"`{escaped(value if isinstance(value, str) else json.dumps(value))}`"


def escaped(value: Any) -> str:
    """Return a text that does not end a table's cell."""
    return str(value).replace("|", "\\|")


def row(name: str, schema: Schema, definitions: Schema, *, required: bool) -> str:
    """Return the table row of a field; UndocumentedError where description or example is missing."""
    example = example_of(schema)
    if not schema.get("description"):
        raise UndocumentedError(f"{name} has no description")
    if example in (None, "", [], {}):
        raise UndocumentedError(f"{name} has no example; give its Field examples=[...]")
    default = schema.get("default")
    cells = [
        f"`{name}`",
        type_of(schema, definitions),
        "**required**" if required else "" if default in (None, "", [], {}) else code(default),
        limits_of(schema),
        code(example),
        escaped(schema["description"]),
    ]
    return f"| {' | '.join(cells)} |\n"


def settings_section(model: type[BaseModel], prefix: str) -> str:
    """Return the table of a process's settings, by their variables."""
    schema = model.model_json_schema()
    definitions, required = schema.get("$defs", {}), schema.get("required", ())
    return HEADER.format(name="Variable") + "".join(
        row(f"{prefix}{name}".upper(), resolved(each, definitions), definitions, required=name in required)
        for name, each in schema["properties"].items()
    )


_INTRODUCTION = """\
<!-- Generated from the settings of each package by `make generate`; do not edit. -->
# Settings of the processes

Each process is set by environment variables and by nothing else. In a cluster the chart sets those of the operator,
and the operator those of ingest and query: this page is for reading logs and for running a process by hand.
[reference.md](reference.md) has the fields of the resource.
"""


def page(packages: Iterable[str]) -> str:
    """Return the page of these packages' settings: each has a module `settings` with the model `Settings`."""
    sections = [_INTRODUCTION]
    for package in packages:
        model = importlib.import_module(f"{package}.settings").Settings
        sections.append(f"## `python -m {package}`\n\n{settings_section(model, model.model_config['env_prefix'])}")
    return "\n".join(sections)


def main(arguments: Sequence[str]) -> None:
    """Print the page of the packages that are named."""
    sys.stdout.write(page(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
