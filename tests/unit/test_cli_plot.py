"""Charts of text, checked dot by dot and as a whole."""

import pytest

from sensorlog_cli.canvas import Canvas
from sensorlog_cli.chart import Frame, Point, draw, gaps

BRAILLE = range(0x2800, 0x2900)


def _dots(lines: list[str]) -> int:
    return sum((ord(char) - 0x2800).bit_count() for line in lines for char in line if ord(char) in BRAILLE)


@pytest.mark.parametrize(
    ("x", "y", "character"),
    [(0, 0, "⡀"), (1, 0, "⢀"), (0, 1, "⠄"), (1, 1, "⠠"), (0, 2, "⠂"), (1, 2, "⠐"), (0, 3, "⠁"), (1, 3, "⠈")],
)
def test_each_dot_of_a_character(x: int, y: int, character: str) -> None:
    """From the lower left."""
    canvas = Canvas(1, 1)
    canvas.dot(x, y)
    assert canvas.lines() == [character]


def test_a_line_has_a_dot_in_every_column() -> None:
    """And joins its ends."""
    canvas = Canvas(4, 2)
    canvas.line((0, 0), (7, 7))
    assert canvas.lines() == ["⠀⠀⡠⠊", "⡠⠊⠀⠀"]


def test_a_chart_as_a_whole() -> None:
    """Labels of both axes, and the line between."""
    points = [Point(1646409300 + n, float(n)) for n in range(60)]
    lines = draw(points, Frame(1646409300, 1646409360, "s", width=64, height=7))
    assert lines[0].startswith("  59 ┤")
    assert lines[2].startswith("29.5 ┤")
    assert lines[4].startswith("   0 ┤⣀")
    assert lines[0].endswith("⠁")
    assert lines[5] == f"     └{'─' * 58}"
    assert lines[6].split() == ["2022-03-04T15:55:00Z", "2022-03-04T15:56:00Z"]
    assert {len(line) for line in lines} == {64}


def test_a_gap_is_not_drawn_over() -> None:
    """Points far apart are not joined; those at their usual distance are."""
    points = [Point(ts, 0.0) for ts in (0, 10, 20, 100, 110)]
    assert gaps(points) == [False, False, True, False]
    whole = _dots(draw([Point(ts, 0.0) for ts in range(0, 120, 10)], Frame(0, 120, "s", width=60, height=5)))
    assert _dots(draw(points, Frame(0, 120, "s", width=60, height=5))) < whole / 2


def test_one_point_and_a_flat_line() -> None:
    """There is no span to divide by."""
    for points in ([Point(5, 7.0)], [Point(5, 7.0), Point(6, 7.0)]):
        lines = draw(points, Frame(5, 7, "s", width=30, height=5))
        assert lines[1].startswith("7 ┤")
        assert _dots(lines) >= len(points)


def test_extremes_are_drawn_and_set_the_scale() -> None:
    """A spike that the average hides is seen."""
    points = [Point(0, 1.0), Point(1, 1.0, low=0.0, high=9.0), Point(2, 1.0)]
    lines = draw(points, Frame(0, 3, "s", width=40, height=8))
    assert lines[0].startswith("  9 ┤")
    assert _dots(lines[:4]) > 0


def test_values_at_the_ends_of_a_double() -> None:
    """Nothing overflows."""
    lines = draw([Point(0, -1.7e308), Point(1, 1.7e308)], Frame(0, 2, "s", width=400, height=6))
    assert _dots(lines[:1]) > 0
    assert _dots(lines[3:4]) > 0
