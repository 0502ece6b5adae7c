"""What is known to be away: one tries, the others need not wait."""

import pytest

from sensorlog_operator import outages
from sensorlog_operator.errors import Reason, UnavailableError
from sensorlog_operator.outages import Outages

AWAY = UnavailableError(Reason.KAFKA_UNAVAILABLE, "Kafka does not answer.")


def is_known(known: Outages, way: str) -> bool:
    """Return whether who asks is told at once that there is no answer."""
    try:
        known.check(way)
    except UnavailableError:
        return True
    return False


def test_nothing_is_known_at_first() -> None:
    """Everybody may try."""
    known = Outages()
    assert [is_known(known, "kafka") for _ in range(3)] == [False, False, False]


def test_who_comes_after_a_failure_is_told_of_it() -> None:
    """With the same reason and words; who needs another server, or comes with other credentials, is not."""
    known = Outages()
    known.note("kafka", AWAY)
    with pytest.raises(UnavailableError, match=AWAY.message) as told:
        known.check("kafka")
    assert told.value.reason == AWAY.reason
    assert not is_known(known, "other")


def test_one_at_a_time_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it tries, the others are told what is known."""
    monkeypatch.setattr(outages, "HOLD_SECONDS", 0)
    known = Outages()
    known.note("kafka", AWAY)
    assert [is_known(known, "kafka") for _ in range(3)] == [False, True, True]
    known.note("kafka", AWAY)
    assert [is_known(known, "kafka") for _ in range(3)] == [False, True, True]


def test_who_tries_and_never_returns_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an error that nobody foresaw."""
    monkeypatch.setattr(outages, "HOLD_SECONDS", 0)
    monkeypatch.setattr(outages, "TRY_SECONDS", 0)
    known = Outages()
    known.note("kafka", AWAY)
    assert [is_known(known, "kafka") for _ in range(2)] == [False, False]


def test_an_answer_ends_it() -> None:
    """For everybody at once."""
    known = Outages()
    known.note("kafka", AWAY)
    known.over("kafka")
    assert [is_known(known, "kafka") for _ in range(2)] == [False, False]


def test_what_nobody_tries_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipeline may be gone, or have other credentials now."""
    monkeypatch.setattr(outages, "FORGET_SECONDS", -10)
    known = Outages()
    known.note("former", AWAY)
    known.note("kafka", AWAY)
    assert (is_known(known, "former"), is_known(known, "kafka")) == (False, True)
