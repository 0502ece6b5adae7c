"""Which parts of a range a rollup answers for. Its numbers are compared in tests/integration/test_query_rollups.py."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sensorlog.rollups import ORIGIN_US
from sensorlog_query.rollups import MOST_SPANS, Span, between, whole_buckets

INTERVAL = 60
MOMENTS = st.integers(min_value=-2_000, max_value=2_000).map(lambda offset: ORIGIN_US + offset)


@st.composite
def apart(draw: st.DrawFn) -> list[Span]:
    """Return spans in order that do not touch each other."""
    moments = sorted(draw(st.sets(MOMENTS, max_size=24)))
    return [(moments[i], moments[i + 1]) for i in range(0, len(moments) - 1, 2)]


@given(apart())
def test_only_whole_buckets_are_taken(spans: list[Span]) -> None:
    """A bucket that is valid in part only would count readings twice or not at all."""
    whole = whole_buckets(spans, INTERVAL)
    assert all((bound - ORIGIN_US) % INTERVAL == 0 for span in whole for bound in span)
    assert all(any(low <= start < end <= high for low, high in spans) for start, end in whole)
    assert all(one[1] <= other[0] for one, other in pairwise(whole))
    assert len(whole) <= MOST_SPANS


def test_of_many_spans_the_largest_are_taken() -> None:
    """The others are left to the readings, in order not to make the statement long."""
    spans = [(ORIGIN_US + 1_000 * i * INTERVAL, ORIGIN_US + (1_000 * i + i) * INTERVAL) for i in range(1, 9)]
    assert list(whole_buckets(spans, INTERVAL)) == spans[-MOST_SPANS:]


@given(apart(), MOMENTS, MOMENTS)
def test_rollup_and_readings_cover_the_range_once(spans: list[Span], start: int, end: int) -> None:
    """Each moment of the range is in one of them, and no other moment."""
    inside = [(max(low, start), min(high, end)) for low, high in spans if max(low, start) < min(high, end)]
    gaps = between(start, end, inside)
    covered = sorted([*inside, *gaps])
    assert sum(high - low for low, high in covered) == max(0, end - start)
    assert all(one[1] == other[0] for one, other in pairwise(covered))
    if covered:
        assert (covered[0][0], covered[-1][1]) == (start, end)
