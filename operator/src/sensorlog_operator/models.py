"""A SensorLogPipeline as the API server holds it: its name, its spec once it fits the model, its status."""

import hashlib
import re
from datetime import timedelta
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sensorlog import durations
from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.spec import PipelineSpec

GROUP = "sensorlog.dev"
VERSION = "v1alpha1"
KIND = "SensorLogPipeline"
PLURAL = "sensorlogpipelines"

APPROVE = f"{GROUP}/approve"
"""The annotation that approves the plan whose hash it names."""

ROTATE_CREDENTIALS = f"{GROUP}/rotate-credentials"
"""The annotation whose change asks for new database passwords."""

POSTGRES_IDENTIFIER_BYTES = 63


class Resource(BaseModel):
    """A SensorLogPipeline as the API server holds it, without a look at its spec."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    deleting: bool
    finalizers: tuple[str, ...]
    annotations: dict[str, str] = {}
    status: dict[str, Any]

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Self:
        """Return the resource of an API object."""
        return cls(**_metadata(body))

    @property
    def key(self) -> str:
        """The pipeline as people name it: namespace/name."""
        return f"{self.namespace}/{self.name}"


class Pipeline(Resource):
    """A SensorLogPipeline whose spec fits the model."""

    spec: PipelineSpec

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Self:
        """Return the pipeline of an API object; NeedsChangeError names the field that does not fit."""
        try:
            return cls(**_metadata(body), spec=PipelineSpec.model_validate(body.get("spec") or {}))
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            field = ".".join(("spec", *(str(part) for part in first["loc"])))
            raise NeedsChangeError(Reason.INVALID_SPEC, f"{field}: {first['msg']}") from e

    @property
    def schema_name(self) -> str:
        """The schema of the pipeline's tables."""
        return self.spec.timescale.db_schema or default_schema(self.namespace, self.name)

    @property
    def chunk_interval(self) -> timedelta:
        """Time that one chunk covers."""
        return durations.parse(self.spec.timescale.chunk_interval)

    @property
    def approval(self) -> str:
        """The hash of the plan that a person approves, empty for none."""
        return self.annotations.get(APPROVE, "")

    @property
    def rotation_request(self) -> str:
        """Any text; another one than before asks for new database passwords."""
        return self.annotations.get(ROTATE_CREDENTIALS, "")

    @property
    def rotation_interval(self) -> timedelta | None:
        """Age at which database passwords are replaced, None for never."""
        wanted = self.spec.timescale.rotate_credentials_every
        return durations.parse(wanted) if wanted else None


def _metadata(body: dict[str, Any]) -> dict[str, Any]:
    meta = body["metadata"]
    return {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "generation": meta.get("generation", 0),
        "created": meta["creationTimestamp"],
        "deleting": "deletionTimestamp" in meta,
        "finalizers": tuple(meta.get("finalizers", ())),
        "annotations": meta.get("annotations") or {},
        "status": body.get("status") or {},
    }


def default_schema(namespace: str, name: str) -> str:
    """Return slp_NAMESPACE_NAME as a PostgreSQL identifier; one too long ends in a hash of the whole."""
    plain = re.sub(r"[^a-z0-9_]", "_", f"slp_{namespace}_{name}")
    if len(plain) <= POSTGRES_IDENTIFIER_BYTES:
        return plain
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:8]
    return f"{plain[: POSTGRES_IDENTIFIER_BYTES - 9]}_{digest}"
