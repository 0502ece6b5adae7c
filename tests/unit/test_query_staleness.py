"""How old an answer may be: what is known of the primary's log, and of a replica's place in it."""

import math
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sensorlog_query.staleness import KEPT_POSITIONS, Positions, Sample, staleness_ms

ENDS = st.lists(st.integers(0, 50), min_size=1, max_size=30)


def noted(ends: Sequence[int]) -> Positions:
    """Return positions noted at the moments 0, 1, 2..."""
    positions = Positions()
    for moment, end in enumerate(ends):
        positions.note(end, float(moment))
    return positions


@given(ENDS.map(sorted), st.integers(-1, 51))
def test_a_position_was_reached_when_the_log_last_ended_there_or_before(ends: list[int], position: int) -> None:
    """Computed a second time, by looking at them all."""
    moments = [float(moment) for moment, end in enumerate(ends) if end <= position]
    assert noted(ends).reached_at(position) == max(moments, default=-math.inf)


@given(ENDS, st.integers(0, 51))
def test_what_another_primary_lacks_is_forgotten(ends: list[int], position: int) -> None:
    """Its log may have other transactions at the same positions: only what came since the last step back counts."""
    back = max((i for i in range(1, len(ends)) if ends[i] < ends[i - 1]), default=0)
    moments = [float(i) for i in range(back, len(ends)) if ends[i] <= position]
    assert noted(ends).reached_at(position) == max(moments, default=-math.inf)


def test_a_log_that_grows_for_ever_is_forgotten_at_its_beginning() -> None:
    """Memory stays bounded, and a replica so far behind has its own word."""
    positions = noted(range(KEPT_POSITIONS + 10))
    assert positions.reached_at(9) == -math.inf
    assert positions.reached_at(10) == 10.0


def test_a_primary_is_never_old() -> None:
    """However long ago it was asked."""
    assert staleness_ms(Sample(time.monotonic() - 100, -1, 0.0), None) == 0


def test_a_replica_gets_older_with_its_sample() -> None:
    """What it has replayed since is not known yet."""
    sampled = Sample(time.monotonic() - 2, 7, 0.5)
    assert 2_500 <= staleness_ms(sampled, None) < 4_000
    assert staleness_ms(sampled, Positions()) >= 2_500


def test_the_better_witness_counts() -> None:
    """An idle primary says that nothing is missing; a replica that replays says so itself where the primary is away."""
    now = time.monotonic()
    idle, away = Positions(), Positions()
    idle.note(7, now - 1)
    away.note(7, now - 60)
    assert 1_000 <= staleness_ms(Sample(now, 7, 30.0), idle) < 2_500
    assert 200 <= staleness_ms(Sample(now, 7, 0.2), away) < 1_700
    assert 30_000 <= staleness_ms(Sample(now, 6, 30.0), idle) < 31_500
