"""The program: its name, and which commands it has."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sensorlog import __version__
from sensorlog_cli.boundary import Boundary
from sensorlog_cli.commands import dead_letters, export, plan, plot, publish, read, status, watch
from sensorlog_cli.options import Output
from sensorlog_cli.output import write_json

app = typer.Typer(
    cls=Boundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Publish and read sensor data, and see what a SensorLog pipeline does.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    publish.publish,
    read.sensors,
    read.readings,
    read.latest,
    read.averages,
    watch.watch,
    export.export,
    plot.plot,
    status.status,
    plan.plan,
):
    app.command()(command)
app.add_typer(dead_letters.app, name="dead-letters")


@app.command()
def version(
    output: Annotated[Output, typer.Option("--output", "-o", help="A line for people; json or jsonl for programs.")] = (
        Output.TABLE
    ),
) -> None:
    """Show the version of this program."""
    if output is Output.TABLE:
        typer.echo(f"sensorlog {__version__}")
    else:
        write_json({"version": __version__})


def program_name(argv0: str) -> str:
    """Return what a person typed to get here: kubectl finds its plugins as `kubectl-NAME` on the PATH."""
    return "kubectl sensorlog" if Path(argv0).name.startswith("kubectl-") else "sensorlog"


def main() -> None:
    """Run the program; ends the process with one of `errors.ExitStatus`."""
    app(prog_name=program_name(sys.argv[0]))
