"""Names of rollups and of their columns."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog import rollups
from sensorlog.measurements import NAME_PATTERN
from sensorlog.rollups import Partial

NAMES = st.from_regex(NAME_PATTERN.removesuffix("$") + r"\Z", fullmatch=False)


@given(st.integers(min_value=1, max_value=10**6))
def test_a_rollup_tells_its_interval_by_its_name(minutes: int) -> None:
    """So that nobody needs to parse its definition."""
    interval = timedelta(minutes=minutes)
    assert rollups.interval_of(rollups.name(interval)) == interval


@pytest.mark.parametrize("view", ["rollup_", "rollup_0s", "rollup_60m", "rollup_daily", "sensor_data", "30m", ""])
def test_other_views_are_no_rollups(view: str) -> None:
    """Whoever makes a continuous aggregate of one's own keeps it."""
    assert rollups.interval_of(view) is None


@given(st.sets(NAMES, max_size=8))
def test_no_two_columns_share_a_name(measurements: set[str]) -> None:
    """Whatever measurements are called, up to PostgreSQL's 63 bytes."""
    names = rollups.columns(tuple(measurements))
    assert len(names) == 3 + len(measurements) * len(Partial)
    assert all(len(name) <= 63 for name in names)


def test_names_too_long_by_their_suffix_stay_apart() -> None:
    """Two measurements that differ in their last character only."""
    long = "m" * 62
    assert len(rollups.columns((long + "a", long + "b"))) == 3 + 2 * len(Partial)


def test_the_widest_rollup_fits_into_a_view() -> None:
    """PostgreSQL allows 1600 columns."""
    assert 3 + rollups.MAX_MEASUREMENTS * len(Partial) <= 1600
