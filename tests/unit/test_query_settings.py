"""The query process's settings, and how it refuses bad ones before it starts."""

from pathlib import Path

import pytest

from sensorlog.pipeline import KafkaConfig, PipelineConfig
from sensorlog_query.__main__ import BAD_CONFIGURATION, main
from sensorlog_query.settings import Settings, read_settings

DOCUMENT = PipelineConfig(
    namespace="ns", name="demo", db_schema="slp_demo", kafka=KafkaConfig(bootstrap_servers="kafka:9092", group_id="g")
)


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a good configuration that the environment points to."""
    (tmp_path / "pipeline.json").write_text(DOCUMENT.to_json())
    (tmp_path / "uri").write_text("postgresql://user:hunter2@localhost/db")
    monkeypatch.setenv("SENSORLOG_CONFIG", str(tmp_path / "pipeline.json"))
    monkeypatch.setenv("SENSORLOG_DATABASE_DIR", str(tmp_path))
    return tmp_path


def test_the_environment_and_the_command_line_set_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins."""
    monkeypatch.setenv("SENSORLOG_WORKERS", "8")
    monkeypatch.setenv("SENSORLOG_GRPC_PORT", "1234")
    settings = read_settings(["--grpc-port", "4321"])
    assert (settings.workers, settings.grpc_port) == (8, 4321)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SENSORLOG_GRPC_PORT", "http", "SENSORLOG_GRPC_PORT: Input should be a valid integer"),
        ("SENSORLOG_GRPC_PORT", "65536", "SENSORLOG_GRPC_PORT: Input should be less than or equal to 65535"),
        ("SENSORLOG_LOG_LEVEL", "LOUD", "SENSORLOG_LOG_LEVEL: Input should be 'DEBUG'"),
        ("SENSORLOG_POOL_MIN", "99", "pool_min: 99 is above pool_max 16"),
        ("SENSORLOG_MAX_EXPORTS", "16", "max_exports: 16 must be below workers 16"),
        ("SENSORLOG_TLS_CLIENT_AUTH", "require", "tls_client_auth: require needs tls_dir"),
        ("SENSORLOG_TLS_DIR", "/nowhere", "cannot read /nowhere/tls.crt"),
        ("SENSORLOG_AUTH", "kubernetes", "auth_audience: kubernetes needs the audience"),
        ("SENSORLOG_CONFIG", "/nowhere.json", "cannot read the pipeline document /nowhere.json"),
        ("SENSORLOG_DATABASE_DIR", "/nowhere", "cannot read /nowhere/uri"),
        ("SENSORLOG_PRIMARY_DIR", "/nowhere", "cannot read /nowhere/uri"),
    ],
)
def test_a_bad_setting_ends_the_process_with_2_and_one_line(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the setting or the file."""
    monkeypatch.setenv(name, value)
    assert main([]) == BAD_CONFIGURATION
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_uri_that_cannot_be_parsed_is_not_repeated(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds a password."""
    (configured / "uri").write_text("postgresql//user:hunter2@localhost/db")
    assert main([]) == BAD_CONFIGURATION
    err = capsys.readouterr().err
    assert str(configured / "uri") in err
    assert "hunter2" not in err


def test_a_field_of_the_pipeline_document_that_does_not_fit_is_named(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the whole document, not a traceback."""
    document = DOCUMENT.to_json().replace('"timestampUnit": "s"', '"timestampUnit": "h"')
    (configured / "pipeline.json").write_text(document)
    assert main([]) == BAD_CONFIGURATION
    assert "timestampUnit" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """With a description each."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
