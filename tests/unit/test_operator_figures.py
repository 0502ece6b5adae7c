"""What status tells in figures, and when it warns of loss."""

from datetime import UTC, datetime, timedelta

import pytest

from sensorlog_operator import figures
from sensorlog_operator.backlog import Backlog
from sensorlog_operator.errors import Reason
from sensorlog_operator.figures import Stored

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEEK = timedelta(days=7)


def backlog(*, lag: int = 10, oldest: timedelta = timedelta(), lost: int = 0) -> Backlog:
    """Return a backlog."""
    return Backlog(lag, oldest, lost)


def stored(*, rate: float = 0, newest: datetime | None = None, size: int = 0) -> Stored:
    """Return what is stored."""
    return Stored(rate, newest, dead_letters_last_hour=3, size_bytes=size, chunks=2)


@pytest.mark.parametrize(
    ("oldest", "reason"),
    [
        (timedelta(), Reason.READY),
        (timedelta(days=3), Reason.READY),
        (timedelta(days=4), Reason.RETENTION_NEAR),
        (timedelta(days=9), Reason.RETENTION_NEAR),
    ],
)
def test_half_of_the_retention_is_when_somebody_is_told(oldest: timedelta, reason: Reason) -> None:
    """Long before it is too late."""
    condition = figures.data_safe(backlog(oldest=oldest), WEEK)
    assert (condition.reason, condition.status) == (reason, reason is Reason.READY)


def test_the_warning_says_how_long_is_left_and_what_to_do() -> None:
    """In units that a person would say."""
    message = figures.data_safe(backlog(oldest=timedelta(days=6, hours=2)), WEEK).message
    assert "6d old" in message
    assert "in 22h it is lost" in message
    assert "spec.kafka.readings.retention" in message


def test_what_is_lost_already_is_said_with_its_number() -> None:
    """Whatever the age of the rest."""
    condition = figures.data_safe(backlog(lost=17), WEEK)
    assert condition.reason is Reason.READINGS_LOST
    assert "17 messages" in condition.message


def test_without_retention_nothing_is_ever_lost() -> None:
    """Its topic keeps all."""
    assert figures.data_safe(backlog(oldest=timedelta(days=999)), None).status
    assert figures.backlog_fields(backlog(), None)["timeToDataLoss"] == "never"


@pytest.mark.parametrize(
    ("oldest", "left"),
    [(timedelta(), "7d"), (timedelta(days=4), "3d"), (timedelta(days=5), "2d"), (timedelta(days=8), "0s")],
)
def test_the_time_to_data_loss_is_what_retention_leaves(oldest: timedelta, left: str) -> None:
    """Rounded down: it is known to a tenth only."""
    assert figures.backlog_fields(backlog(oldest=oldest), WEEK)["timeToDataLoss"] == left


def test_a_steady_rate_reads_the_same_each_time() -> None:
    """Two significant digits, so that status is not written for nothing."""
    rates = {figures.stored_fields(stored(rate=rate), {}, NOW)["rowsPerSecond"] for rate in (1011.3, 998.7, 1004)}
    assert rates == {1000}


def test_the_newest_reading_is_kept_while_none_comes() -> None:
    """The database remembers an hour of batches, status longer."""
    first = figures.stored_fields(stored(newest=NOW - timedelta(seconds=7)), {}, NOW)
    assert (first["newestReading"], first["freshness"]) == ("2026-01-02T03:03:58Z", "7s")
    later = figures.stored_fields(stored(), first, NOW + timedelta(hours=2))
    assert (later["newestReading"], later["freshness"]) == ("2026-01-02T03:03:58Z", "2h")
    assert "freshness" not in figures.stored_fields(stored(), {}, NOW)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5 GiB"), (3 * 1024**4, "3 TiB")]
)
def test_sizes_are_said_in_units(size: int, text: str) -> None:
    """And in bytes, for programs."""
    fields = figures.stored_fields(stored(size=size), {}, NOW)
    assert (fields["size"], fields["sizeBytes"]) == (text, size)
