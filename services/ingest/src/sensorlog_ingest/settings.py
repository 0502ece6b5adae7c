"""The process's settings, from the environment. The operator's Deployment sets these and no others."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sensorlog.telemetry import LogFormat

ENV_PREFIX = "SENSORLOG_"


class SettingsError(Exception):
    """The environment does not fit; the message names the variable."""


class Settings(BaseSettings):
    """Where the mounted files are, and how the process shows itself."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    config: Path = Field(
        default=Path("/etc/sensorlog/pipeline/pipeline.json"),
        description="The pipeline document that the operator writes (JSON).",
    )
    database_dir: Path = Field(
        default=Path("/etc/sensorlog/database"),
        description="Mounted Secret of the database; its file uri holds a postgresql:// address.",
    )
    kafka_dir: Path = Field(
        default=Path("/etc/sensorlog/kafka"),
        description="Mounted Secret of Kafka: username, password, ca.crt, tls.crt, tls.key, as far as needed.",
    )
    telemetry_port: int = Field(
        default=9090, ge=0, le=65535, description="Port of /metrics, /livez and /readyz; 0 takes any free one."
    )
    log_level: str = Field(
        default="INFO", pattern="(?i)^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    log_format: LogFormat = Field(
        default="auto", description="json, console, or auto: console on a terminal, json elsewhere."
    )


def read_settings() -> Settings:
    """Return the settings of this process; SettingsError names the variable that does not fit."""
    try:
        return Settings()
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{ENV_PREFIX}{name}: {first['msg']}") from e


def describe_settings() -> str:
    """Return one line per variable with its meaning and default, for --help."""
    lines = []
    for name, field in Settings.model_fields.items():
        variable = f"{ENV_PREFIX}{name}".upper()
        lines.append(f"  {variable:<25} {field.description} Default: {field.default}")
    return "\n".join(lines)
