"""Configuration: the environment the operator sets, and one clear line where it does not fit."""

import subprocess
import sys
from pathlib import Path

import pytest

from sensorlog.pipeline import KafkaConfig, PipelineConfig
from sensorlog_ingest.settings import Settings, describe_settings


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the service to its end, with nothing but these variables in its environment."""
    command = [sys.executable, "-m", "sensorlog_ingest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)


@pytest.fixture
def mounted(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a service whose files are all mounted and right."""
    config = PipelineConfig(
        namespace="n", name="p", db_schema="slp", kafka=KafkaConfig(bootstrap_servers="127.0.0.1:1", group_id="g")
    )
    (tmp_path / "pipeline.json").write_text(config.to_json())
    (tmp_path / "uri").write_text("postgresql://user:secret@127.0.0.1/db")
    return {
        "SENSORLOG_CONFIG": str(tmp_path / "pipeline.json"),
        "SENSORLOG_DATABASE_DIR": str(tmp_path),
        "SENSORLOG_KAFKA_DIR": str(tmp_path),
    }


def test_defaults_are_where_the_operator_mounts() -> None:
    """Without any environment the files are expected under /etc/sensorlog."""
    settings = Settings()
    assert settings.config == Path("/etc/sensorlog/pipeline/pipeline.json")
    assert settings.telemetry_port == 9090


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SENSORLOG_TELEMETRY_PORT", "99999", "SENSORLOG_TELEMETRY_PORT: Input should be less than or equal to 65535"),
        ("SENSORLOG_LOG_LEVEL", "loud", "SENSORLOG_LOG_LEVEL: "),
        ("SENSORLOG_CONFIG", "/nowhere/pipeline.json", "cannot read the pipeline document /nowhere/pipeline.json"),
        ("SENSORLOG_DATABASE_DIR", "/nowhere", "cannot read /nowhere/uri: No such file or directory"),
    ],
)
def test_wrong_setting_ends_with_one_line(variable: str, value: str, message: str, mounted: dict[str, str]) -> None:
    """Exit code 2, and the line names what does not fit."""
    ended = run(**{**mounted, variable: value})
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"sensorlog_ingest: {message}")


def test_broken_uri_is_refused_without_showing_the_password(mounted: dict[str, str], tmp_path: Path) -> None:
    """The Secret's text never reaches the log."""
    (tmp_path / "uri").write_text("postgresql:/user:secret@127.0.0.1/db")
    ended = run(**mounted)
    assert ended.returncode == 2
    assert "uri is no connection string" in ended.stderr
    assert "secret" not in ended.stderr


def test_help_names_every_variable() -> None:
    """--help is complete, and works without any configuration."""
    ended = run("--help")
    assert ended.returncode == 0
    assert describe_settings() in ended.stdout
    assert all(f"SENSORLOG_{name.upper()}" in ended.stdout for name in Settings.model_fields)
