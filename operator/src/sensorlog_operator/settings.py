"""What the operator's own Deployment tells it, from environment variables that start with SENSORLOG_."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sensorlog.telemetry import LogFormat


class Settings(BaseSettings):
    """Settings of one operator process; `python -m sensorlog_operator --help` lists them."""

    model_config = SettingsConfigDict(env_prefix="SENSORLOG_", frozen=True)

    ingest_image: str = Field(description="Image of ingest pods where a resource names none.")
    query_image: str = Field(description="Image of query pods where a resource names none.")
    image_pull_policy: str = Field(default="IfNotPresent", description="Pull policy of these images.")
    resync_seconds: float = Field(default=60, gt=0, description="How often every pipeline is looked at.")
    workers: int = Field(default=4, ge=1, le=64, description="Pipelines reconciled at the same time.")
    telemetry_port: int = Field(default=9090, ge=0, le=65535, description="Port of /metrics, /livez and /readyz.")
    log_level: str = Field(default="INFO", description="Least severe level that is logged.")
    log_format: LogFormat = Field(default="auto", description="json, console, or auto: console on a terminal.")
    token_reviewers: str = Field(
        default="sensorlog-operator-token-reviewers",
        description="ClusterRoleBinding whose subjects are the query pods that check callers' tokens.",
    )
    otlp_endpoint: str = Field(default="", description="OTLP endpoint that pods send traces to; empty for none.")
