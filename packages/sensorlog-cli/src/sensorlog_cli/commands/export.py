"""The command that takes a whole range away, as a file of columns or lines."""

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated

import typer

from sensorlog.client import Block, CallError
from sensorlog.client.blocks import empty
from sensorlog_cli import moments
from sensorlog_cli.client import Source, connected
from sensorlog_cli.destination import STANDARD_OUTPUT, destination
from sensorlog_cli.errors import UsageError
from sensorlog_cli.export_progress import ExportProgress
from sensorlog_cli.options import (
    PipelineArgument,
    QueryOptions,
    RangeOptions,
    check_duration,
    grouped,
    of_pipeline,
    seconds,
)
from sensorlog_cli.output import counted, messages, say
from sensorlog_cli.writers import Format, writer_of


@grouped
def export(
    query: QueryOptions,
    within: RangeOptions,
    *,
    name: PipelineArgument = None,
    measurements: Annotated[
        list[str] | None,
        typer.Option("--measurement", help="Only this column; may be given several times, and says the order."),
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="Format of the file.")] = Format.CSV,
    file: Annotated[
        str,
        typer.Option("--file", "-f", metavar="FILE|-", help="Where to; - is standard output."),
    ] = STANDARD_OUTPUT,
    within_time: Annotated[
        str,
        typer.Option(
            "--export-timeout", callback=check_duration, metavar="DURATION", help="How long the export may take."
        ),
    ] = "1h",
) -> None:
    """Export all readings of a range by time and sensor, as CSV, JSON lines, Parquet or an Arrow IPC stream.

    A file appears under its name only when it is whole. Where the service goes away in between, the export is
    continued.
    """
    to_terminal = file == STANDARD_OUTPUT and sys.stdout.isatty()
    if output.is_binary and to_terminal:
        raise UsageError(f"-o {output} is not for a terminal: name a --file, or a pipe")
    write = writer_of(output)
    with connected(of_pipeline(query, name)) as source:
        start, end = moments.bounds(within, source.unit, datetime.now(UTC))
        blocks = source.client.export(
            start=start,
            end=end,
            sensor_ids=within.sensor_ids or (),
            measurements=measurements or (),
            timeout=seconds(within_time),
            on_resumed=_say_resumed,
        )
        shown = ExportProgress(start, _last(source, within, end), is_quiet=to_terminal)
        with shown as progress, destination(file) as sink:
            write(_some(progress.following(blocks), source, measurements), sink)
    if file != STANDARD_OUTPUT:
        say(f"exported {counted(progress.rows, 'reading')} to {file}")


def _some(blocks: Iterator[Block], source: Source, measurements: Iterable[str] | None) -> Iterator[Block]:
    """Yield `blocks`, or where there are none an empty one with the columns as far as they are known."""
    names = measurements or [measurement.name for measurement in source.measurements or ()]
    first = next(blocks, None)
    return iter([empty(names, source.unit)]) if first is None else chain([first], blocks)


def _last(source: Source, within: RangeOptions, end: int | None) -> int | None:
    """Return where the export will end, as far as a person sees it: the newest reading where there is no bound."""
    if end is not None or not messages().is_terminal:
        return end
    newest = source.client.readings(sensor_ids=within.sensor_ids or (), newest_first=True, limit=1)
    return next((reading.ts for reading in newest), None)


def _say_resumed(ts: int, error: CallError) -> None:
    say(f"the connection broke, going on from ts {ts}: {error}")
