"""`python -m sensorlog_query`: read the settings, serve until SIGTERM."""

import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from sensorlog.credentials import DATABASE_URI, CredentialsError, read_credential
from sensorlog.pipeline import PipelineConfig, PipelineConfigError, read_pipeline_config
from sensorlog.telemetry import StopSignal, configure_logging
from sensorlog_query.certificate import read_pair
from sensorlog_query.process import serve
from sensorlog_query.server import BindError
from sensorlog_query.settings import Settings, SettingsError, read_settings
from sensorlog_query.supervisor import Supervisor

log = structlog.get_logger()

BAD_CONFIGURATION = 2
FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, 1 without a port, 2 with a bad configuration."""
    try:
        settings = read_settings(list(arguments))
        pipeline = read_pipeline_config(settings.config)
        for directory in (settings.database_dir, settings.primary_dir):
            _check_uri(directory)
        _check_certificate(settings)
    except (SettingsError, PipelineConfigError, CredentialsError) as e:
        print(f"error: {e}", file=sys.stderr)  # noqa: T201 -- before there is a log
        return BAD_CONFIGURATION
    configure_logging("query", level=settings.log_level, log_format=settings.log_format)
    try:
        return 0 if _serve(settings, pipeline) else FAILED
    except (BindError, CredentialsError, OSError) as e:
        log.error("cannot serve", error=str(e))  # noqa: TRY400 -- the message says all
        return FAILED


def _check_uri(directory: Path | None) -> None:
    if directory is None:
        return
    uri = read_credential(directory, DATABASE_URI)
    try:
        conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        # Without the reason: libpq quotes the uri, password included.
        path = directory / DATABASE_URI
        raise CredentialsError(f"{path} is no connection uri; write postgresql://user:password@host:5432/db") from None


def _check_certificate(settings: Settings) -> None:
    if settings.tls_dir is not None:
        read_pair(settings.tls_dir, require_client=settings.tls_client_auth == "require").check()


def _serve(settings: Settings, pipeline: PipelineConfig) -> bool:
    """Serve until a signal; return whether everything then ended in order."""
    stop = StopSignal()
    stop.install()
    if settings.processes == 1:
        serve(settings, pipeline, stop)
        return True
    return Supervisor(settings, pipeline).run(stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
