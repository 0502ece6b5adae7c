"""Commands that read: sensors, readings, latest, averages."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Annotated

import typer

from sensorlog_cli import moments, tables
from sensorlog_cli.client import QueryClient, Selection, connected
from sensorlog_cli.options import (
    Output,
    OutputOption,
    QueryOptions,
    RangeOptions,
    check_duration,
    grouped,
    seconds,
)
from sensorlog_cli.output import Row, say, write_rows


class Order(StrEnum):
    """Which reading comes first."""

    ASC = "asc"
    DESC = "desc"


@grouped
def sensors(query: QueryOptions, output: OutputOption = Output.TABLE) -> None:
    """List the sensors that announced themselves."""
    with connected(query) as client:
        write_rows(client.sensors(), output, tables.sensors)


@grouped
def readings(
    query: QueryOptions,
    within: RangeOptions,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many readings.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All readings, without --limit.")] = False,
    order: Annotated[Order, typer.Option("--order", help="Oldest (asc) or newest (desc) first.")] = Order.ASC,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show readings by time and sensor. The JSON is in the form that publish takes."""
    with connected(query) as client:
        wanted = None if everything else limit + 1  # one more tells whether there are more
        rows = client.readings(_selection(within, client), newest_first=order is Order.DESC, limit=wanted)
        columns = partial(tables.readings, unit=client.unit, measurements=client.measurements)
        write_rows(rows if everything else _at_most(limit, rows), output, columns)


def _at_most(limit: int, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield at most `limit` rows, and tell the person when there are more: a cut must not look like the end."""
    yield from islice(rows, limit)
    if next(rows, None) is not None:
        say(f"stopped at {limit} readings, there are more: --limit N, or --all")


@grouped
def latest(
    query: QueryOptions,
    *,
    sensor_ids: Annotated[
        list[int] | None, typer.Option("--sensor-id", help="Only this sensor; may be given several times.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the last reading of each sensor."""
    with connected(query) as client:
        columns = partial(tables.readings, unit=client.unit, measurements=client.measurements)
        write_rows(client.latest(sensor_ids or ()), output, columns)


@grouped
def averages(
    query: QueryOptions,
    within: RangeOptions,
    *,
    bucket: Annotated[
        str,
        typer.Option(
            "--bucket", callback=check_duration, metavar="DURATION", help="Width of a bucket, in whole seconds."
        ),
    ] = "30m",
    per_sensor: Annotated[bool, typer.Option("--per-sensor", help="One series a sensor.")] = False,
    with_latest: Annotated[bool, typer.Option("--with-latest", help="Also the latest value of each bucket.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the average of each measurement per bucket of time."""
    width = seconds(bucket)
    if not width.is_integer():
        raise typer.BadParameter(f"{bucket!r} is not in whole seconds", param_hint="--bucket")
    with connected(query) as client:
        ask = client.averages_and_latest if with_latest else client.averages
        rows = ask(_selection(within, client), int(width), per_sensor=per_sensor)
        columns = partial(tables.averages, unit=client.unit, measurements=client.measurements)
        write_rows(rows, output, columns)


def _selection(within: RangeOptions, client: QueryClient) -> Selection:
    start, end = moments.bounds(within, client.unit, datetime.now(UTC))
    return Selection(start, end, within.sensor_ids or ())
