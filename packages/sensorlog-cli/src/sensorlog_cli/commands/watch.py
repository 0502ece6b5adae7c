"""The command that shows readings as they are stored."""

from typing import Annotated

import typer

from sensorlog.client import CallError, Missed, WatchEvent
from sensorlog_cli.client import Source, connected, reading_row
from sensorlog_cli.moments import show
from sensorlog_cli.options import QueryOptions, grouped
from sensorlog_cli.output import number, say, write_line


@grouped
def watch(
    query: QueryOptions,
    *,
    sensor_ids: Annotated[
        list[int] | None, typer.Option("--sensor-id", "--sensor", help="Only this sensor; may be given several times.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line a reading in the form that publish takes, and one for each token.")
    ] = False,
    resume_token: Annotated[
        str, typer.Option("--resume-token", metavar="TOKEN", help="Go on after the line that has this token.")
    ] = "",
) -> None:
    """Show readings as they are stored, until Ctrl-C. What cannot be shown is told on standard error.

    With --json a line {"resume_token": ...} follows the readings that it stands after: from there --resume-token goes
    on, for up to 50 minutes. Where the service goes away in between, the watch goes on by itself.
    """
    with connected(query) as source:
        events = source.client.watch(sensor_ids or (), resume_token=resume_token, on_resumed=_say_resumed).events()
        for event in events:
            for missed in event.missed:
                _say_missed(missed)
            if as_json:
                _write_json(event)
            else:
                _write_text(event, source)


def _write_json(event: WatchEvent) -> None:
    for reading in event.readings:
        write_line(reading_row(reading))
    write_line({"resume_token": event.resume_token})
    typer.get_text_stream("stdout").flush()


def _write_text(event: WatchEvent, source: Source) -> None:
    for reading in event.readings:
        values = "  ".join(f"{name} {number(value)}" for name, value in reading.values.items())
        typer.echo(f"{show(reading.ts, source.unit)}  sensor {reading.sensor_id}  {values}")
    typer.get_text_stream("stdout").flush()


def _say_missed(missed: Missed) -> None:
    count = "" if missed.count is None else f"{missed.count} "
    where = "an unknown range" if missed.start is None else f"--start {missed.start} --end {missed.end}"
    say(f"warning: missed {count}readings ({missed.reason}); `sensorlog readings` has them: {where}")


def _say_resumed(error: CallError) -> None:
    say(f"the watch broke, going on: {error}")
