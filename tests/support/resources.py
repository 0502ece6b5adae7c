"""SensorLogPipeline resources for tests of the operator."""

from typing import Any

from sensorlog_operator.models import GROUP, KIND, VERSION, Pipeline
from sensorlog_operator.secrets import Mount, database_reference, primary_fallback
from sensorlog_operator.settings import Settings

UID = "0b6e1f8e-0000-4000-8000-000000000001"


def pipeline_body(*, name: str = "plant", namespace: str = "default", uid: str = UID, **spec: Any) -> dict[str, Any]:
    """Return a resource as the API server would hand it out."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "kafka": {"bootstrapServers": "kafka:9092"},
            "timescale": {"connectionSecretRef": {"name": "timescaledb"}},
            **spec,
        },
    }


def a_pipeline(**options: Any) -> Pipeline:
    """Return a parsed resource; options as for `pipeline_body`."""
    return Pipeline.from_body(pipeline_body(**options))


def mounts(pipeline: Pipeline, digest: str = "digest", **logins: str) -> dict[str, Mount]:
    """Return how the components get into the database: as the users of the Secrets, or as `logins` of their own."""
    return {
        component: Mount(
            database_reference(pipeline, component),
            digest,
            logins.get(component),
            primary_fallback(pipeline) if component == "query" else None,
        )
        for component in ("ingest", "query")
    }


def operator_settings() -> Settings:
    """Return the settings of an operator of release 1."""
    return Settings(ingest_image="sensorlog/ingest:1", query_image="sensorlog/query:1")
