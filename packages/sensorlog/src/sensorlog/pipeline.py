"""The one document the operator hands to a service: JSON in a ConfigMap, mounted as a file.

It holds no secret: credentials are mounted beside it (see `Credentials`).
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from sensorlog.measurements import DEFAULT_MEASUREMENTS, MAX_MEASUREMENTS, Measurement
from sensorlog.timestamps import TimestampUnit

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


MAX_DELAY_MS = 60_000
"""Oldest that a reading may be made to wait before it is written."""


class PipelineConfigError(Exception):
    """The pipeline document cannot be read or does not fit; the message names the field."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class KafkaConfig(_Document):
    """Where readings come from. Client options are librdkafka's."""

    bootstrap_servers: str
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism | None = None
    readings_topic: str = "logger.sensor.ts"
    sensors_topic: str = "logger.sensor.instance"
    group_id: str


class BatchConfig(_Document):
    """When a batch closes: on rows, bytes or age, whichever comes first."""

    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    max_delay_ms: Annotated[int, Field(ge=1, le=MAX_DELAY_MS)] = 250
    max_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024


class AcceptedWindow(_Document):
    """Which `ts` are believed: from 1970-01-01 to so many seconds ahead of now.

    A message in a wrong unit (milliseconds where seconds are declared) falls outside and becomes a dead letter.
    """

    ahead_seconds: Annotated[int, Field(ge=0)] = int(timedelta(days=1).total_seconds())


class PipelineConfig(_Document):
    """Everything that ingest and query know of their pipeline."""

    namespace: str
    name: str
    db_schema: str = Field(alias="schema")
    kafka: KafkaConfig
    timestamp_unit: TimestampUnit = "s"
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=MAX_MEASUREMENTS)] = (
        DEFAULT_MEASUREMENTS
    )
    batch: BatchConfig = BatchConfig()
    accepted_window: AcceptedWindow = AcceptedWindow()

    def to_json(self) -> str:
        """Return the document as the operator writes it: stable order, camelCase keys."""
        return self.model_dump_json(by_alias=True, indent=2)


def read_pipeline_config(path: Path) -> PipelineConfig:
    """Return the document at `path`; PipelineConfigError names the field that does not fit."""
    try:
        return PipelineConfig.model_validate_json(path.read_bytes())
    except OSError as e:
        raise PipelineConfigError(f"cannot read the pipeline document {path}: {e.strerror}") from e
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PipelineConfigError(f"pipeline document {path}: {field}: {first['msg']}") from e
