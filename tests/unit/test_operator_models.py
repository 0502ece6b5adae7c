"""The resource's model and the CRD generated from it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensorlog_operator import crd
from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.models import POSTGRES_IDENTIFIER_BYTES, Pipeline, default_schema
from support.resources import a_pipeline, pipeline_body

ROOT = Path(__file__).parents[2]
CHART_CRD = ROOT / "charts/sensorlog/files/sensorlogpipelines.yaml"


def schema_of(*path: str) -> dict[str, Any]:
    """Return the CRD's schema of a field of spec."""
    schema = crd.spec_schema()
    for field in path:
        schema = schema["properties"][field]
    return schema


def rules_of(schema: dict[str, Any]) -> list[str]:
    """Return the CEL rules of a schema."""
    return [rule["rule"] for rule in schema.get("x-kubernetes-validations", ())]


def test_chart_ships_the_crd_of_the_models() -> None:
    """`make generate` was run after the last change of the models."""
    assert CHART_CRD.read_text() == crd.to_yaml()


def test_crd_stays_when_the_chart_goes() -> None:
    """Uninstalling the chart must not delete every pipeline with its CRD."""
    metadata = yaml.safe_load(CHART_CRD.read_text())["metadata"]
    assert metadata["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_field_of_spec_is_described() -> None:
    """`kubectl explain` says something about each field."""

    def walk(schema: dict[str, Any], path: str) -> list[str]:
        lacking = [] if schema.get("description") else [path]
        for name, child in schema.get("properties", {}).items():
            lacking += walk(child, f"{path}.{name}")
        return lacking + (walk(schema["items"], f"{path}[]") if "items" in schema else [])

    assert walk(crd.spec_schema(), "spec") == []


def test_schema_is_structural() -> None:
    """The API server refuses references, unions, titles and null defaults, and does not know constants."""
    text = crd.to_yaml()
    assert not re.findall(r"\$ref|\$defs|anyOf|oneOf|title:|const:|null", text)


@pytest.mark.parametrize("path", [("kafka", "readings", "topic"), ("kafka", "sensors", "topic"), ("timestampUnit",)])
def test_what_cannot_change_is_immutable(path: tuple[str, ...]) -> None:
    """Topic names and the unit are fixed at creation."""
    assert "self == oldSelf" in rules_of(schema_of(*path))


def test_schema_name_is_immutable_also_when_it_was_not_given() -> None:
    """Neither adding nor removing spec.timescale.schema later moves the pipeline to another schema."""
    assert any("has(self.schema) == has(oldSelf.schema)" in rule for rule in rules_of(schema_of("timescale")))


def test_defaults_reach_nested_fields() -> None:
    """A resource that names nothing gets every default from the API server, at each depth."""
    assert schema_of("kafka", "readings")["default"]["partitions"] == 6
    assert schema_of("ingest", "batch")["default"] == {"maxRows": 50_000, "maxDelay": "250ms"}
    assert [m["name"] for m in schema_of("measurements")["default"]] == ["temperature", "cpu"]


def test_measurements_are_keyed_by_name() -> None:
    """The API server refuses two measurements of one name."""
    assert schema_of("measurements")["x-kubernetes-list-map-keys"] == ["name"]


def test_schema_of_a_pipeline_defaults_to_namespace_and_name() -> None:
    """The default is slp_NAMESPACE_NAME."""
    assert a_pipeline(namespace="lab-2", name="plant").schema_name == "slp_lab_2_plant"


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.from_regex(r"[a-z]([-a-z0-9]{0,50})?"))
def test_default_schema_is_an_identifier_that_fits(namespace: str, name: str) -> None:
    """PostgreSQL cuts a longer identifier without a word."""
    schema = default_schema(namespace, name)
    assert len(schema.encode()) <= POSTGRES_IDENTIFIER_BYTES
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", schema)


def test_long_names_that_differ_at_the_end_get_different_schemas() -> None:
    """What is cut off still counts."""
    assert default_schema("n" * 60, "a" * 50 + "1") != default_schema("n" * 60, "a" * 50 + "2")


def test_spec_that_does_not_fit_names_its_field() -> None:
    """Also a resource that an older CRD let through is refused by field."""
    body = pipeline_body(kafka={"bootstrapServers": "kafka:9092", "readings": {"partitions": 0}})
    with pytest.raises(NeedsChangeError, match=r"spec\.kafka\.readings\.partitions") as refused:
        Pipeline.from_body(body)
    assert refused.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("maxDelay", {"ingest": {"batch": {"maxDelay": "0s"}}}),
        ("maxDelay", {"ingest": {"batch": {"maxDelay": "61s"}}}),
        ("maxDelay", {"ingest": {"batch": {"maxDelay": "99999999999999999999999999999d"}}}),
        ("measurements", {"measurements": [{"name": "xmin"}]}),
    ],
)
def test_what_would_fail_later_is_refused_by_its_field(field: str, spec: dict[str, Any]) -> None:
    """A resource that an older CRD let through is no bug of the operator."""
    with pytest.raises(NeedsChangeError, match=field) as refused:
        a_pipeline(**spec)
    assert refused.value.reason is Reason.INVALID_SPEC


def test_authentication_needs_tls() -> None:
    """A token in clear is anybody's; the API server refuses the resource."""
    assert "!has(self.authentication) || has(self.tls)" in rules_of(schema_of("query"))


@pytest.mark.parametrize(
    "query",
    [
        {"processes": 0},
        {"processes": 17},
        {"tls": {}},
        {"tls": {"secretRef": {"name": "s"}, "clientAuth": "Maybe"}},
        {"authentication": {"type": "Basic"}},
        {"authentication": {"type": "Kubernetes", "audience": "two words"}},
    ],
)
def test_security_that_does_not_fit_is_refused(query: dict[str, Any]) -> None:
    """With the field's name."""
    with pytest.raises(NeedsChangeError, match=r"spec\.query\."):
        a_pipeline(query=query)
