"""All there is of a pipeline in Kafka, the database and the API server, to compare what two histories made of it."""

import json
from typing import Any

from sensorlog_operator import brokers, connections, roles, schema, topics
from sensorlog_operator.kube import CHILD_KINDS
from sensorlog_operator.roles import ObservedRoles
from sensorlog_operator.schema import ObservedSchema
from support.apiserver import Object
from support.database import Database
from support.operated import OperatedPipeline

RANDOM = ("clusterIP", "clusterIPs", "sensorlog.dev/config-checksum", "sensorlog.dev/manifest-hash")
"""What differs between two pipelines that are the same otherwise."""


def schema_name(pipeline: OperatedPipeline) -> str:
    """Return the pipeline's schema."""
    return pipeline.schema


def world(pipeline: OperatedPipeline, database: Database, uid: str, *others: tuple[str, str]) -> Object:
    """Return all there is of a pipeline of this uid, in words that are the same for all of the same spec.

    `others` are further texts to replace, and by what.
    """
    name = schema_name(pipeline)
    with connections.connect(database.uri) as connection:
        known = roles.observe(connection, name)
        stored = _stored(schema.observe(connection, name), known)
    found = {"topics": _topics(pipeline), "database": stored, "children": _children(pipeline)}
    text = json.dumps(found, sort_keys=True, default=str)
    prefix = known.names.group("ingest").removesuffix("_writer")
    own = ((prefix, "ROLES"), (name, "SCHEMA"), (pipeline.namespace, "NAMESPACE"), (uid, "UID"))
    for theirs, word in (*own, *others):
        text = text.replace(theirs, word)
    return dict(json.loads(text))


def _topics(pipeline: OperatedPipeline) -> Object:
    kafka = brokers.admin({"bootstrap.servers": pipeline.broker.bootstrap_servers})
    prefix = f"{pipeline.namespace}.{pipeline.name}"
    observed = topics.observe(kafka, [f"{prefix}.readings", f"{prefix}.sensors"])
    return {name: [topic.partitions, topic.config.get("retention.ms")] for name, topic in observed.items()}


def _stored(seen: ObservedSchema, known: ObservedRoles) -> Object:
    return {
        "tables": seen.tables,
        "keys": seen.primary_keys,
        "indexes": {table: sorted(map(str, columns)) for table, columns in seen.indexes.items()},
        "chunks": seen.chunk_interval,
        "comment": seen.comment,
        "roles": {name: role.can_login for name, role in known.roles.items()},
        "rights": sorted(map("/".join, known.privileges)),
    }


def _children(pipeline: OperatedPipeline) -> Object:
    found = {}
    for kind, where in CHILD_KINDS.items():
        if where.optional:
            continue
        for child in pipeline.server.call("GET", where.path(pipeline.namespace))["items"]:
            rest = {key: value for key, value in child.items() if key not in ("metadata", "status")}
            found[f"{kind} {child['metadata']['name']}"] = _plain(rest)
    return found


def _plain(value: Any) -> Any:
    """Return a part of an object without what is random."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key not in RANDOM}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
