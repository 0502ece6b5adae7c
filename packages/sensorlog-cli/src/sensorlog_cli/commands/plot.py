"""The command that draws a series in the terminal."""

import shutil
from datetime import UTC, datetime
from typing import Annotated

import typer

from sensorlog.client import Aggregate, Bucket
from sensorlog.timestamps import PER_SECOND
from sensorlog_cli import chart, moments
from sensorlog_cli.canvas import DOTS_X
from sensorlog_cli.chart import Frame, Point
from sensorlog_cli.client import Source, connected
from sensorlog_cli.errors import UsageError
from sensorlog_cli.options import PipelineArgument, QueryOptions, RangeOptions, grouped, of_pipeline
from sensorlog_cli.output import results, say

MAX_BUCKET_SECONDS = 366 * 86_400
"""The contract's limit."""
_PIPE_SIZE = (100, 24)


@grouped
def plot(
    query: QueryOptions,
    within: RangeOptions,
    *,
    name: PipelineArgument = None,
    measurement: Annotated[str, typer.Option("--measurement", "-m", help="What to draw.")],
    extremes: Annotated[
        bool, typer.Option("--extremes", help="Also from the least to the largest value of each dot's span.")
    ] = False,
    width: Annotated[int | None, typer.Option("--width", min=20, help="Characters. Default: the terminal's.")] = None,
    height: Annotated[int, typer.Option("--height", min=5, help="Lines, axes included.")] = 18,
) -> None:
    """Draw a measurement of a sensor over time, averaged to the dots that there is room for.

    Without a range: from its first reading to its last. Of several sensors, or all, it is the average over them.
    """
    columns, _ = shutil.get_terminal_size(_PIPE_SIZE)
    with connected(of_pipeline(query, name)) as source:
        _check(source, measurement)
        frame = _frame(source, within, width or columns, height)
        if frame is None:
            say("nothing there")
            return
        per_dot = _bucket_seconds(frame)
        buckets = source.client.averages(
            bucket=per_dot,
            start=frame.start,
            end=frame.end,
            sensor_ids=within.sensor_ids or (),
            aggregates=(Aggregate.MIN, Aggregate.MAX) if extremes else (),
        )
        points = [_point(bucket, measurement) for bucket in buckets if measurement in bucket.averages]
    if not points:
        there = sorted({each for bucket in buckets for each in bucket.averages})
        say(f"no values of {measurement} there" + (f", but of {', '.join(there)}" if there else ""))
        return
    _print(points, frame, source, measurement, per_dot)


def _check(source: Source, measurement: str) -> None:
    declared = [each.name for each in source.measurements or ()]
    if declared and measurement not in declared:
        raise UsageError(f"--measurement: {measurement!r} is not declared; there are {', '.join(declared)}")


def _frame(source: Source, within: RangeOptions, width: int, height: int) -> Frame | None:
    """Return what to draw in; None where there is no reading to begin or end with."""
    start, end = moments.bounds(within, source.unit, datetime.now(UTC))
    sensor_ids = within.sensor_ids or ()
    for newest_first in (False, True):
        edge = next(
            source.client.readings(start=start, end=end, sensor_ids=sensor_ids, newest_first=newest_first, limit=1),
            None,
        )
        if edge is None:
            return None
        if newest_first and end is None:
            end = edge.ts + 1
        elif not newest_first and start is None:
            start = edge.ts
    assert start is not None  # noqa: S101 -- found above
    assert end is not None  # noqa: S101
    return Frame(start, max(end, start + 1), source.unit, width, height)


def _bucket_seconds(frame: Frame) -> int:
    """Return the width of a bucket for about one bucket a dot."""
    span = (frame.end - frame.start) / PER_SECOND[frame.unit]
    return min(MAX_BUCKET_SECONDS, max(1, round(span / (frame.width * DOTS_X))))


def _point(bucket: Bucket, measurement: str) -> Point:
    return Point(
        bucket.start,
        bucket.averages[measurement],
        bucket.minimums.get(measurement),
        bucket.maximums.get(measurement),
    )


def _print(points: list[Point], frame: Frame, source: Source, measurement: str, per_dot: int) -> None:
    unit = next((m.unit for m in source.measurements or () if m.name == measurement), "")
    console = results()
    console.print(f"{measurement} [{unit}]" if unit else measurement, markup=False)
    for line in chart.draw(points, frame):
        console.print(line, markup=False, soft_wrap=True)
    say(f"{len(points)} averages of {per_dot} s each")
