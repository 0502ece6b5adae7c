"""A series over time as text: axes, labels, and a line that breaks where readings are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from sensorlog.timestamps import TimestampUnit
from sensorlog_cli.canvas import Canvas
from sensorlog_cli.moments import show
from sensorlog_cli.output import number

_GAP = 3.0
"""Points further apart than this many times the usual distance are not joined."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value at `ts`, and between which two values it is the average where that is to be seen."""

    ts: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn in: start <= ts < end, and the size in characters with labels and axes."""

    start: int
    end: int
    unit: TimestampUnit
    width: int
    height: int


def draw(points: Sequence[Point], frame: Frame) -> list[str]:
    """Return the lines of a chart of `points`, of which there is at least one, in order."""
    bottom = min(point.value if point.low is None else point.low for point in points)
    top = max(point.value if point.high is None else point.high for point in points)
    labels = [number(top), number((top + bottom) / 2), number(bottom)] if top > bottom else ["", number(top), ""]
    margin = max(map(len, labels))
    canvas = Canvas(max(1, frame.width - margin - 2), max(3, frame.height - 2))
    _plot(points, frame, canvas, bottom, top)
    return _framed(canvas.lines(), labels, margin, frame)


def gaps(points: Sequence[Point]) -> list[bool]:
    """Return for each two neighbours whether readings are missing between them."""
    distances = [after.ts - before.ts for before, after in pairwise(points)]
    usual = median(distances) if distances else 0
    return [distance > _GAP * usual for distance in distances]


def _plot(points: Sequence[Point], frame: Frame, canvas: Canvas, bottom: float, top: float) -> None:
    def x(point: Point) -> int:
        return min(canvas.dots_x - 1, max(0, (point.ts - frame.start) * canvas.dots_x // (frame.end - frame.start)))

    def y(value: float) -> int:
        # Halves first: the difference of two large values may be more than a double holds.
        span = top / 2 - bottom / 2
        return round((value / 2 - bottom / 2) / span * (canvas.dots_y - 1)) if span else canvas.dots_y // 2

    for point in points:
        canvas.dot(x(point), y(point.value))
        if point.low is not None and point.high is not None:
            canvas.line((x(point), y(point.low)), (x(point), y(point.high)))
    for (before, after), missing in zip(pairwise(points), gaps(points), strict=True):
        if not missing:
            canvas.line((x(before), y(before.value)), (x(after), y(after.value)))


def _framed(rows: Sequence[str], labels: Sequence[str], margin: int, frame: Frame) -> list[str]:
    at = {0: labels[0], len(rows) // 2: labels[1], len(rows) - 1: labels[2]}
    body = [f"{at.get(i, ''):>{margin}} {'┤' if at.get(i) else '│'}{row}" for i, row in enumerate(rows)]
    start, end = show(frame.start, frame.unit), show(frame.end, frame.unit)
    between = len(rows[0]) - len(start) - len(end)
    times = f"{start}{' ' * between}{end}" if between > 0 else f"{start} to {end}"
    return [*body, f"{'':{margin}} └{'─' * len(rows[0])}", f"{'':{margin}}  {times}"]
