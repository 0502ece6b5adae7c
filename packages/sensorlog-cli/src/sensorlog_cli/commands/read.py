"""Commands that read: sensors, readings, latest, averages."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Annotated

import typer

from sensorlog.client import Aggregate
from sensorlog.client.api import MAX_PAGE_SIZE
from sensorlog.timestamps import from_datetime
from sensorlog_cli import moments, tables
from sensorlog_cli.client import bucket_row, connected, latest_row, reading_row, sensor_row
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
    with connected(query) as source:
        write_rows(map(sensor_row, source.client.list_sensors()), output, tables.sensors)


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
    with connected(query) as source:
        start, end = moments.bounds(within, source.unit, datetime.now(UTC))
        found = source.client.readings(
            start=start,
            end=end,
            sensor_ids=within.sensor_ids or (),
            newest_first=order is Order.DESC,
            limit=None if everything else limit + 1,  # one more tells whether there are more
            page_size=MAX_PAGE_SIZE,  # fewer round trips through a port forward
        )
        rows = map(reading_row, found)
        columns = partial(tables.readings, unit=source.unit, measurements=source.measurements)
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
        list[int] | None, typer.Option("--sensor-id", "--sensor", help="Only this sensor; may be given several times.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the last reading of each sensor."""
    with connected(query) as source:
        columns = partial(tables.readings, unit=source.unit, measurements=source.measurements)
        write_rows(map(reading_row, source.client.latest(sensor_ids or ())), output, columns)


def _check_aggregates(texts: list[str] | None) -> list[str]:
    """Return the names in `texts`, each of which may hold several with commas between."""
    names = [name.strip() for text in texts or () for name in text.split(",")]
    if unknown := [name for name in names if name not in set(Aggregate)]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(Aggregate)}")
    return names


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
    aggregates: Annotated[
        list[str] | None,
        typer.Option(
            "--aggregate",
            callback=_check_aggregates,
            metavar="NAME,...",
            help=f"Also of each bucket: {', '.join(Aggregate)}. May be given several times.",
        ),
    ] = None,
    with_latest: Annotated[bool, typer.Option("--with-latest", help="Also the latest value of each bucket.")] = False,
    fill_gaps: Annotated[
        bool, typer.Option("--fill-gaps", help="Also buckets without readings; needs a start, and ends now by default.")
    ] = False,
    time_zone: Annotated[
        str,
        typer.Option(
            "--time-zone", metavar="NAME", help="Days begin at its midnights, like Europe/Berlin. Default: UTC."
        ),
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the average of each measurement per bucket of time."""
    width = seconds(bucket)
    if not width.is_integer():
        raise typer.BadParameter(f"{bucket!r} is not in whole seconds", param_hint="--bucket")
    with connected(query) as source:
        now = datetime.now(UTC)
        start, end = moments.bounds(within, source.unit, now)
        if fill_gaps and end is None:
            end = from_datetime(now, source.unit)
        buckets = source.client.averages(
            bucket=int(width),
            start=start,
            end=end,
            sensor_ids=within.sensor_ids or (),
            per_sensor=per_sensor,
            aggregates=aggregates or (),
            fill_gaps=fill_gaps,
            time_zone=time_zone,
            with_latest=with_latest,
        )
        columns = partial(tables.averages, unit=source.unit, measurements=source.measurements)
        write_rows(map(latest_row if with_latest else bucket_row, buckets), output, columns)
