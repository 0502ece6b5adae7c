"""The program as a whole: its names, its help, its errors."""

import pytest
from grpc import StatusCode
from typer.main import get_command
from typer.testing import CliRunner

from sensorlog import __version__
from sensorlog.client import (
    CallError,
    ExportInterruptedError,
    InvalidRequestError,
    MissingExtraError,
    ServiceError,
    UnavailableError,
)
from sensorlog_cli.app import app, program_name
from sensorlog_cli.errors import CliError, UnreachableError, UsageError, translate

COMMANDS = (
    "publish",
    "sensors",
    "readings",
    "latest",
    "averages",
    "watch",
    "export",
    "plot",
    "status",
    "plan",
    "version",
    "dead-letters",
)
CLUSTER = ("--namespace", "-n", "--context", "--kubeconfig", "--timeout", "--debug", "--output", "-o")
WHERE = (*CLUSTER, "--pipeline")
QUERY = (
    *WHERE,
    "--endpoint",
    "--timestamp-unit",
    "--tls",
    "--ca-file",
    "--server-name",
    "--token-file",
    "--max-staleness",
)
WATCH = tuple(option for option in QUERY if option not in ("--output", "-o"))
RANGE = ("--since", "--start", "--from", "--end", "--to", "--sensor-id", "--sensor")
BUCKETS = ("--bucket", "--per-sensor", "--aggregate", "--fill-gaps", "--time-zone", "--with-latest")
SOURCE = ("--data", "--from-host", "--duration", "--interval", "--allow-unknown")
LETTERS = ("--reason", "--topic", "--since")
CHOICE = ("--all", "--dry-run", "--yes")
KAFKA = ("--bootstrap-servers", "--kafka-option", "--topic", "--sensors-topic", "--timestamp-unit")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("publish", (*WHERE, *SOURCE, *KAFKA)),
        ("sensors", QUERY),
        ("readings", (*QUERY, *RANGE, "--limit", "--all", "--order")),
        ("latest", (*QUERY, "--sensor-id")),
        ("averages", (*QUERY, *RANGE, *BUCKETS)),
        ("watch", (*WATCH, "--sensor-id", "--json", "--resume-token")),
        ("export", (*QUERY, *RANGE, "--measurement", "--file", "-f", "--export-timeout", "PIPELINE")),
        ("plot", ("--endpoint", *RANGE, "--measurement", "--extremes", "--width", "--height", "PIPELINE")),
        ("status", (*WHERE, "--all-namespaces", "-A", "--watch", "NAME")),
        ("plan", (*WHERE, "--file", "-f", "--approve", "--hash", "--operator-namespace", "NAME")),
        ("dead-letters list", (*CLUSTER, *LETTERS, "--limit", "PIPELINE")),
        ("dead-letters show", (*CLUSTER, "--raw", "PIPELINE", "ID")),
        ("dead-letters replay", (*CLUSTER, *LETTERS, *CHOICE, "--value", "--protobuf", "PIPELINE", "ID")),
        ("dead-letters discard", (*CLUSTER, *LETTERS, *CHOICE, "PIPELINE", "ID")),
        ("version", ("--output",)),
    ],
)
def test_help_names_every_option(command: str, options: tuple[str, ...]) -> None:
    """What can be said can be found."""
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert [option for option in options if option not in result.stdout] == []


def test_every_command_and_option_has_a_description() -> None:
    """A command that is added without words is noticed."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert tuple(commands) == COMMANDS
    for command in (*commands.values(), *commands["dead-letters"].commands.values()):
        assert command.help
        assert all(parameter.help for parameter in command.params if parameter.name != "help")


def test_the_program_is_named_as_it_was_called() -> None:
    """As kubectl's plugin it is a subcommand of kubectl."""
    assert program_name("/usr/bin/kubectl-sensorlog") == "kubectl sensorlog"
    assert program_name("/usr/bin/sensorlog") == "sensorlog"
    result = CliRunner().invoke(app, ["readings", "-h"], prog_name="kubectl sensorlog")
    assert "Usage: kubectl sensorlog readings" in result.stdout


def test_version() -> None:
    """A line for people, JSON for programs."""
    assert CliRunner().invoke(app, ["version"]).stdout == f"sensorlog {__version__}\n"
    assert __version__ in CliRunner().invoke(app, ["version", "-o", "json"]).stdout


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    """Status 2, as everywhere."""
    assert CliRunner().invoke(app, ["publsh"]).exit_code == 2
    assert CliRunner().invoke(app, ["latest", "--nope"]).exit_code == 2


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_every_grpc_status_becomes_one_line_that_keeps_what_the_server_said(code: StatusCode) -> None:
    """None escapes as itself."""
    error = translate(CallError(code, "what the server said"))
    assert error is not None
    assert "what the server said" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("x"), UsageError),
        (ConnectionRefusedError("x"), UnreachableError),
        (TimeoutError("x"), UnreachableError),
        (InvalidRequestError(StatusCode.INVALID_ARGUMENT, "x"), UsageError),
        (ServiceError(StatusCode.INTERNAL, "x"), CliError),
        (ExportInterruptedError(UnavailableError(StatusCode.UNAVAILABLE, "x"), 5, 1, 7), UnreachableError),
        (MissingExtraError("pyarrow", "arrow"), CliError),
    ],
)
def test_foreign_errors_have_their_kind(error: Exception, kind: type[CliError]) -> None:
    """The kind carries the exit status."""
    assert type(translate(error)) is kind


def test_a_bug_is_not_dressed_up() -> None:
    """What nobody outside can have caused is not translated."""
    assert translate(ZeroDivisionError()) is None
