"""What the operator's own Deployment tells it, from environment variables that start with SENSORLOG_."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sensorlog.telemetry import LogFormat


class Settings(BaseSettings):
    """Settings of one operator process; `python -m sensorlog_operator --help` lists them."""

    model_config = SettingsConfigDict(env_prefix="SENSORLOG_", frozen=True)

    ingest_image: str = Field(
        description="Image of ingest pods where a resource names none.", examples=["sensorlog/ingest:0.1.0"]
    )
    query_image: str = Field(
        description="Image of query pods where a resource names none.", examples=["sensorlog/query:0.1.0"]
    )
    image_pull_policy: str = Field(default="IfNotPresent", description="Pull policy of these images.")
    image_pull_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Secrets, separated by commas, that these images are pulled with; of the pipeline's namespace.",
        examples=["registry"],
    )
    resync_seconds: float = Field(default=60, gt=0, description="How often every pipeline is looked at.")
    workers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Pipelines reconciled at the same time, beside those that wait for what does not answer.",
    )
    stuck_seconds: float = Field(
        default=300,
        gt=0,
        description="How long a reconcile may take before liveness fails, in seconds. Every call of one has a"
        " deadline; one that takes longer than all of them together hangs.",
    )
    watch_silence_seconds: float = Field(
        default=70,
        gt=0,
        description="How long a watch may be silent before it is opened anew, in seconds. The API server says something"
        " every minute.",
    )
    telemetry_port: int = Field(default=9090, ge=0, le=65535, description="Port of /metrics, /livez and /readyz.")
    plan_port: int = Field(
        default=0, ge=0, le=65535, description="Port of 127.0.0.1 that plans are asked for at; 0 for none."
    )
    log_level: str = Field(default="INFO", description="Least severe level that is logged.")
    log_format: LogFormat = Field(default="auto", description="json, console, or auto: console on a terminal.")
    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Namespaces to watch, separated by commas; empty for all.", examples=["plants,halls"]
    )
    namespace: str = Field(
        default="",
        description="The operator's own namespace, whose uid is its identity where it watches chosen ones.",
        examples=["sensorlog"],
    )
    token_reviewers: str = Field(
        default="sensorlog-operator-token-reviewers",
        description="ClusterRoleBinding whose subjects are the query pods that check callers' tokens; empty where there"
        " is no right to change it.",
    )
    token_reviewers_bound: bool = Field(
        default=False, description="Whether an administrator lets these pods check tokens, where we cannot."
    )
    canary_account: str = Field(
        default="sensorlog-operator-canary",
        description="ServiceAccount in the operator's own namespace whose tokens are shown to query services that ask"
        " for one; it may look for canaries and nothing else.",
    )
    otlp_endpoint: str = Field(
        default="",
        description="OTLP endpoint (gRPC) that pods send traces to; empty for none.",
        examples=["http://jaeger.observability.svc:4317"],
    )

    @field_validator("watch_namespaces", "image_pull_secrets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @property
    def identity_namespace(self) -> str:
        """The namespace whose uid tells this operator's schemas from those of others.

        Of the cluster that is kube-system; who watches chosen namespaces may only look at their own.
        """
        return self.namespace if self.watch_namespaces else "kube-system"
