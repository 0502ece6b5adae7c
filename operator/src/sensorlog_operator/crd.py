"""Writes the CustomResourceDefinition from the models: `python -m sensorlog_operator.crd` prints it.

pydantic's JSON schema is made structural (no references, no titles, null as nullable), as the API server demands.
"""

import sys
from collections.abc import Callable
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from sensorlog_operator.models import GROUP, KIND, PLURAL, VERSION
from sensorlog_operator.spec import MEASUREMENT_RULES, NAME_RULES, PipelineSpec

HEADER = "# Generated from sensorlog_operator.spec by `make generate`; do not edit.\n"

_DROPPED = {"title", "$defs", "additionalProperties", "examples", "discriminator"}

CONDITIONS = {
    "type": "array",
    "description": "TopicReady, SchemaReady, AccessReady, IngestReady, QueryReady, FeaturesReady where old readings"
    " are treated, AutoscalingReady where something scales by itself, and Ready, which sums the others up.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {
                "type": "string",
                "description": "One word for programs; docs/conditions.md explains each.",
            },
            "message": {"type": "string", "description": "What is the matter and what to do."},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    },
}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "format": "int64", "description": description}


PLAN = {
    "type": "object",
    "description": "What waits for approval, or what is left of what was approved.",
    "properties": {
        "hash": _text("Names this plan: the annotation sensorlog.dev/approve with this value approves it."),
        "generation": _number("The generation of spec that it is for."),
        "approved": {"type": "boolean", "description": "Whether it was approved and is being carried out."},
        "actions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": _text("Tells the action from others."),
                    "step": _text("topics, schema, access, children or deletion."),
                    "summary": _text("What would be done."),
                    "risk": _text("What a person should know before."),
                    "detail": _text("The statement, or the difference."),
                    "dangerous": {"type": "boolean", "description": "Whether it always waits for approval."},
                },
            },
        },
        "more": {"type": "array", "description": "The ids of further actions.", "items": {"type": "string"}},
    },
}

DRIFT = {
    "type": "array",
    "description": "What was changed by hand: all that is left so, and the last that was set back.",
    "items": {
        "type": "object",
        "properties": {
            "id": _text("Tells the finding from others."),
            "step": _text("topics, schema, access or children."),
            "summary": _text("What sets it back."),
            "state": _text("Reported or Repaired."),
            "at": _text("When it was found."),
        },
    },
}

STATUS = {
    "type": "object",
    "description": "What the operator saw at its last reconcile.",
    "properties": {
        "observedGeneration": _number("The generation of spec that this status describes."),
        "conditions": CONDITIONS,
        "topic": _text("Topic of readings and its partitions."),
        "schema": _text("Schema of the tables."),
        "endpoint": _text("Address of the query service within the cluster, host:port."),
        "ingest": _text("Ingest pods, ready/wanted."),
        "query": _text("Query pods, ready/wanted."),
        "ingestReplicas": _number("Ingest pods that exist, for the subresource scale."),
        "ingestSelector": _text("Label selector of ingest pods, for the subresource scale."),
        "lag": _number("Messages of readings in the topic that are not in the database yet."),
        "partitions": _number("Partitions of the topic of readings."),
        "timeToDataLoss": _text("Until Kafka deletes the oldest reading that is not stored, if ingest stood still."),
        "rowsPerSecond": _number("Readings stored per second over the last minute, two significant digits."),
        "newestReading": _text("Time of the newest reading of those stored lately."),
        "freshness": _text("How old the newest reading was at the last reconcile."),
        "deadLettersLastHour": _number("Messages that went to the dead letters within the last hour."),
        "chunks": _number("Chunks of the hypertable of readings."),
        "size": _text("Size of the readings on disk, with their index."),
        "sizeBytes": _number("The same in bytes."),
        "timescaledb": _text("Version and edition of TimescaleDB."),
        "plan": PLAN,
        "drift": DRIFT,
        "applied": {
            "type": "object",
            "description": "The resource as it was last applied wholly, and by which release of the operator.",
            "properties": {
                "release": _text("Release of the operator."),
                "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        },
        "credentials": {
            "type": "object",
            "description": "The database logins of the pods, and their last rotation that is finished.",
            "properties": {
                "ingest": _text("Database role that ingest connects as."),
                "query": _text("Database role that the query service connects as."),
                "rotatedAt": _text("When the older of their passwords was made."),
                "request": _text("Annotation sensorlog.dev/rotate-credentials that these passwords answer."),
            },
        },
    },
}

SCALE = {
    "specReplicasPath": ".spec.ingest.replicas",
    "statusReplicasPath": ".status.ingestReplicas",
    "labelSelectorPath": ".status.ingestSelector",
}
"""What `kubectl scale` and other scalers see: ingest, whose pods share the work."""

COLUMNS = [
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Topic", "type": "string", "jsonPath": ".status.topic"},
    {"name": "Ingest", "type": "string", "jsonPath": ".status.ingest"},
    {"name": "Query", "type": "string", "jsonPath": ".status.query"},
    {"name": "Lag", "type": "integer", "jsonPath": ".status.lag"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
    },
    {"name": "Rows/s", "type": "integer", "priority": 1, "jsonPath": ".status.rowsPerSecond"},
    {"name": "Freshness", "type": "string", "priority": 1, "jsonPath": ".status.freshness"},
    {"name": "Dead/h", "type": "integer", "priority": 1, "jsonPath": ".status.deadLettersLastHour"},
    {"name": "Size", "type": "string", "priority": 1, "jsonPath": ".status.size"},
    {"name": "Loss in", "type": "string", "priority": 1, "jsonPath": ".status.timeToDataLoss"},
    {"name": "Endpoint", "type": "string", "priority": 1, "jsonPath": ".status.endpoint"},
    {"name": "Schema", "type": "string", "priority": 1, "jsonPath": ".status.schema"},
]


def structural(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a JSON schema as a structural schema: references inlined, null folded away, titles dropped."""
    if isinstance(schema, list):
        return [structural(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        target = definitions[reference.rsplit("/", 1)[1]]
        return structural({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
    if "anyOf" in schema:
        return structural(_without_union(schema), definitions)
    if "const" in schema:  # which the API server does not know, and leaves out without refusing anything
        return structural({**{k: v for k, v in schema.items() if k != "const"}, "enum": [schema["const"]]}, definitions)
    return {key: _KEYWORDS.get(key, structural)(value, definitions) for key, value in _kept(schema)}


def _properties(properties: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return {name: structural(schema, definitions) for name, schema in properties.items()}


def _default(value: Any, definitions: dict[str, Any]) -> Any:
    """Return a default without its nulls: the API server wants absence."""
    if isinstance(value, list):
        return [_default(item, definitions) for item in value]
    if isinstance(value, dict):
        return {key: _default(item, definitions) for key, item in value.items() if item is not None}
    return value


_KEYWORDS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {"properties": _properties, "default": _default}


def _kept(schema: dict[str, Any]) -> list[tuple[str, Any]]:
    def keep(key: str, value: Any) -> bool:
        if key == "additionalProperties":
            return isinstance(value, dict)  # a map's value type stays; `false` is what the API server does anyway
        return key not in _DROPPED and not (key == "default" and value is None)

    return [(key, value) for key, value in schema.items() if keep(key, value)]


def _without_union(schema: dict[str, Any]) -> dict[str, Any]:
    """Fold `X | None` into X (absence is how a resource says none) and `str | int` into int-or-string."""
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    members = [member for member in schema["anyOf"] if member.get("type") != "null"]
    return rest if rest.get("x-kubernetes-int-or-string") else {**members[0], **rest}


def spec_schema() -> dict[str, Any]:
    """Return the structural schema of `spec`."""
    refs, top = models_json_schema([(PipelineSpec, "validation")], by_alias=True)
    definitions = top["$defs"]
    definitions["Measurement"].update(MEASUREMENT_RULES)
    schema: dict[str, Any] = structural(refs[(PipelineSpec, "validation")], definitions)
    return schema


def custom_resource_definition() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["slp"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": SCALE},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A telemetry pipeline: Kafka to TimescaleDB to gRPC.",
                            "required": ["spec"],
                            **NAME_RULES,
                            "properties": {"spec": spec_schema(), "status": STATUS},
                        }
                    },
                }
            ],
        },
    }


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the signature is PyYAML's
        return True


def to_yaml() -> str:
    """Return the CRD as the chart ships it."""
    return HEADER + yaml.dump(custom_resource_definition(), Dumper=_Plain, sort_keys=False, width=110)


if __name__ == "__main__":
    sys.stdout.write(to_yaml())
