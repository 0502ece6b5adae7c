"""The chart's values: the file with the defaults, the schema and the table for people say the same."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts/sensorlog"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
ROW = re.compile(r"^\| `([\w.]+)` \| `(.*?)` \|", re.MULTILINE)
TABLE = {name: yaml.safe_load(default) for name, default in ROW.findall((CHART / "README.md").read_text())}

Object = dict[str, Any]

NOT_OURS = {"global", "podSelector", "namespaceSelector", "ipBlock", "valueFrom", "affinity", "tolerations"}
"""Helm's own, and parts of Kubernetes objects, which the API server checks."""


def resolved(schema: Object) -> Object:
    """Return a schema, or the definition that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(SCHEMA["definitions"][name]) if name else schema


def leaves(schema: Object, values: Object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that the schema knows, by its path, with its default."""
    for name, each in resolved(schema)["properties"].items():
        if name == "global":
            continue
        inner, here = resolved(each), f"{path}{name}"
        assert name in values, f"values.yaml has no {here}, which the schema accepts"
        if "properties" in inner and here not in TABLE:
            yield from leaves(inner, values[name], f"{here}.")
        else:
            yield here, values[name]


def names(values: Any, schema: Object) -> Iterator[str]:
    """Yield the names in values that the schema does not have."""
    known = resolved(schema).get("properties")
    if isinstance(values, dict) and known is not None:
        for name, each in values.items():
            yield from names(each, known[name]) if name in known else [name]


def test_every_value_is_in_the_table_with_its_default() -> None:
    """And nothing else is."""
    assert dict(leaves(SCHEMA, VALUES)) == TABLE


def test_every_default_is_one_that_the_schema_knows() -> None:
    """Helm would say so too, at the first install."""
    assert list(names(VALUES, SCHEMA)) == []


def objects(schema: Any, name: str = "") -> Iterator[tuple[str, Object]]:
    """Yield every schema of an object, by its name."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield name, schema
        for key, each in schema.items():
            yield from objects(each, name if key == "items" else key)


@pytest.mark.parametrize(("name", "schema"), [each for each in objects(SCHEMA) if each[0] not in NOT_OURS])
def test_a_name_that_is_misspelt_is_refused_everywhere(name: str, schema: Object) -> None:
    """A value that nobody reads is worse than an error."""
    assert name is not None
    assert "additionalProperties" in schema
    assert schema["additionalProperties"] is not True
