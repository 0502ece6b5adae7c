"""The process's settings: SENSORLOG_* in the environment, or the same as command line options."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sensorlog.telemetry import LogFormat

PREFIX = "SENSORLOG_"

Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Exception):
    """A setting does not fit; the message names it."""


class Settings(BaseSettings):
    """Serve a pipeline's readings over gRPC, read-only. Each option is also SENSORLOG_<NAME> in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, cli_kebab_case=True, cli_prog_name="python -m sensorlog_query"
    )

    config: Path = Field(
        Path("/etc/sensorlog/pipeline/pipeline.json"), description="The pipeline document the operator writes."
    )
    database_dir: Path = Field(
        Path("/etc/sensorlog/database"), description="Folder of the database Secret; its file `uri` is read."
    )
    grpc_port: Port = Field(50051, description="Port of the gRPC service; 0 takes a free one.")
    telemetry_port: Port = Field(9090, description="Port of /metrics, /livez and /readyz; 0 takes a free one.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: LogFormat = Field("auto", description="auto is console on a terminal and json elsewhere.")
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Processes that share the port, a core each at most; what follows is for each of them."
    )
    tls_dir: Path | None = Field(
        None,
        description="Folder of a kubernetes.io/tls Secret: tls.crt, tls.key, and ca.crt for clients; none: no TLS.",
        examples=["/etc/sensorlog/tls"],
    )
    tls_client_auth: Literal["none", "require"] = Field(
        "none", description="require: clients must show a certificate that ca.crt of tls_dir signed."
    )
    auth: Literal["none", "kubernetes"] = Field(
        "none", description="kubernetes: callers show a bearer token and may get sensorlogpipelines/data by RBAC."
    )
    auth_audience: str = Field(
        "",
        description="Audience that a token must be issued for; needed with auth.",
        examples=["plant-query.plants.svc"],
    )
    auth_cache_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        5.0, description="How long a verdict on a token holds, in seconds."
    )
    auth_api_server: str = Field(
        "https://kubernetes.default.svc", description="The API server that says whose a token is and what they may."
    )
    auth_dir: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Folder with the token and ca.crt for the API server.",
    )
    workers: Annotated[int, Field(ge=1, le=512)] = Field(
        16, description="Threads that serve calls: as many are at work at once, others wait."
    )
    max_calls: Annotated[int, Field(ge=1)] = Field(
        256, description="Calls at work or waiting; more are refused with RESOURCE_EXHAUSTED."
    )
    max_exports: Annotated[int, Field(ge=1)] = Field(
        4, description="Exports at once; more are refused with RESOURCE_EXHAUSTED. Less than workers."
    )
    max_watches: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Watches at once, beside the calls; more are refused with RESOURCE_EXHAUSTED."
    )
    watch_buffer: Annotated[int, Field(ge=1)] = Field(
        50_000, description="Readings that wait for a watcher who reads slowly; what is more it misses, and is told so."
    )
    max_unread_bytes: Annotated[int, Field(ge=1)] = Field(
        128 * 1024 * 1024,
        description="Memory in bytes for replies that wait for callers to read them; above, calls are refused with"
        " RESOURCE_EXHAUSTED.",
    )
    pool_min: Annotated[int, Field(ge=0)] = Field(2, description="Database connections kept open.")
    pool_max: Annotated[int, Field(ge=1)] = Field(16, description="Database connections at most.")
    pool_wait_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How long a call waits for a connection, in seconds."
    )
    primary_dir: Path | None = Field(
        None,
        description="Folder of the primary's Secret: answers calls for which database_dir's replica is too far behind.",
        examples=["/etc/sensorlog/primary"],
    )
    primary_pool_max: Annotated[int, Field(ge=1)] = Field(
        4, description="Database connections to the primary at most; none is kept open without need."
    )
    statement_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="How long a call may take where its caller sets no shorter deadline, in seconds."
    )
    export_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="How long an export may take where its caller sets no shorter deadline, in seconds."
    )
    export_stall_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="How long an export or a watch waits for a caller who does not read, before it is ended, in"
        " seconds.",
    )
    connection_seconds: Annotated[float, Field(ge=1)] = Field(
        20.0,
        description="After how long a client is asked to connect anew, in seconds, give or take a tenth. Calls at work"
        " go on. A pod that ends must be out of the endpoints for longer before SIGTERM.",
    )
    shutdown_seconds: Annotated[float, Field(ge=0)] = Field(
        20.0, description="How long calls may go on after SIGTERM, in seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.pool_min > self.pool_max:
            raise ValueError(f"pool_min: {self.pool_min} is above pool_max {self.pool_max}")
        if self.max_exports >= self.workers:
            raise ValueError(f"max_exports: {self.max_exports} must be below workers {self.workers}")
        if self.tls_client_auth == "require" and self.tls_dir is None:
            raise ValueError("tls_client_auth: require needs tls_dir, whose ca.crt signs clients' certificates")
        if self.auth != "none" and not self.auth_audience:
            raise ValueError(f"auth_audience: {self.auth} needs the audience that tokens must be issued for")
        return self


def read_settings(arguments: list[str]) -> Settings:
    """Return the settings from the command line and the environment; SettingsError in one line."""
    try:
        return Settings(_cli_parse_args=arguments)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        name = "".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{PREFIX}{name.upper()}: {message}" if name else message) from e
