"""Durations as people write them, timestamps as messages carry them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog import durations, timestamps
from sensorlog.timestamps import TimestampUnit

UNITS: tuple[TimestampUnit, ...] = ("s", "ms", "us", "ns")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("30m", timedelta(minutes=30)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta()),
    ],
)
def test_durations_are_read(text: str, expected: timedelta) -> None:
    """As Go writes them, with d for days."""
    assert durations.parse(text) == expected


@given(st.integers(min_value=0, max_value=10**12))
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    """And the same duration has one text only."""
    duration = timedelta(milliseconds=milliseconds)
    assert durations.parse(durations.text(duration)) == duration


def test_durations_are_written_with_the_largest_units() -> None:
    """60m and 1h are one."""
    written = [durations.text(durations.parse(text)) for text in ("60m", "90m", "168h", "0ms")]
    assert written == ["1h", "1h30m", "7d", "0s"]


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "1.5h", "5w", "٣m", "5m\n"])
def test_what_is_no_duration_is_refused_with_the_form(text: str) -> None:
    """The message says how to write one."""
    with pytest.raises(ValueError, match="is not a duration: write a number and a unit"):
        durations.parse(text)


@given(st.integers(-(10**15), 10**15), st.sampled_from(UNITS))
def test_timestamps_survive_the_database(ts: int, unit: TimestampUnit) -> None:
    """To microseconds and back loses nothing but nanoseconds."""
    back = timestamps.from_microseconds(timestamps.to_microseconds(ts, unit), unit)
    assert back == (ts - ts % 1000 if unit == "ns" else ts)


@given(st.integers(0, 4 * 10**9), st.sampled_from(UNITS))
def test_datetimes_agree_with_timestamps(seconds: int, unit: TimestampUnit) -> None:
    """The seed's 1646409307 is 2022-03-04 15:55:07 UTC, in every unit."""
    ts = seconds * timestamps.PER_SECOND[unit]
    assert timestamps.from_datetime(timestamps.to_datetime(ts, unit), unit) == ts
    assert timestamps.to_datetime(1646409307, "s").isoformat() == "2022-03-04T15:55:07+00:00"
