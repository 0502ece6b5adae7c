"""A component's two logins: what follows from what the Secret holds, what the database lets in, and what pods use."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sensorlog_operator import logins
from sensorlog_operator.logins import Held, Seen, Wish
from sensorlog_operator.roles import Slot, fingerprint

NOW = datetime(2026, 1, 31, tzinfo=UTC)
NAMES: dict[Slot, str] = {"a": "plant_writer_a", "b": "plant_writer_b"}
NEW = "new password"

NOTHING = Seen(NAMES)
SETTLED = Held({"a": "old password"}, active="a", request="first", made=NOW - timedelta(days=10))


def seen(*in_use: Slot, **passwords: str) -> Seen:
    """Return what is true where the database lets logins in with these passwords, and pods use those of `in_use`."""
    slots: list[Slot] = [slot for slot in NAMES if slot in passwords]
    return Seen(NAMES, {s: fingerprint(NAMES[s], passwords[s]) for s in slots}, frozenset(in_use))


STEADY = seen("a", a="old password")


def begin(held: Held, state: Seen, wish: Wish) -> Held:
    """Return what to hold with a new password at hand."""
    return logins.begin(held, state, wish, NOW, NEW)


def test_a_pipeline_without_a_login_gets_the_first() -> None:
    """What is asked for at this time is answered by it."""
    held = begin(Held(), NOTHING, Wish("first"))
    assert held == Held({"a": NEW}, coming="a", request="first", made=NOW)
    assert logins.to_let_in(held, NOTHING) == ["a"]
    assert logins.arrived(held) == Held({"a": NEW}, active="a", request="first", made=NOW)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    """A reconcile without a change does nothing."""
    assert begin(SETTLED, STEADY, Wish("first", timedelta(days=30))) == SETTLED
    assert logins.to_let_in(SETTLED, STEADY) == []
    assert logins.to_shut_out(SETTLED, STEADY) == []
    assert SETTLED.settled


@pytest.mark.parametrize("wish", [Wish("second"), Wish("first", timedelta(days=10)), Wish("", timedelta(days=1))])
def test_a_new_request_and_age_both_ask_for_a_new_password(wish: Wish) -> None:
    """The other login gets it; the one in use keeps its own."""
    held = begin(SETTLED, STEADY, wish)
    assert held.passwords == {"a": "old password", "b": NEW}
    assert (held.active, held.coming, held.made) == ("a", "b", NOW)


def test_a_request_that_was_taken_away_asks_for_nothing() -> None:
    """An annotation that somebody tidied up is no request."""
    assert begin(SETTLED, STEADY, Wish("")) == SETTLED


def test_a_rotation_goes_on_with_the_password_it_began_with() -> None:
    """A replica that has the login a second later must find the same password then."""
    coming = begin(SETTLED, STEADY, Wish("second"))
    assert logins.begin(coming, STEADY, Wish("third"), NOW, "another") == coming


def test_the_old_login_stays_good_while_pods_use_it() -> None:
    """Also once the new one is the active one."""
    held = logins.arrived(begin(SETTLED, STEADY, Wish("second")))
    assert held.active == "b"
    assert logins.to_shut_out(held, seen("a", "b", a="old password", b=NEW)) == []
    assert not held.settled


def test_the_old_login_is_shut_out_once_no_pod_uses_it() -> None:
    """And the Secret forgets its password."""
    held = logins.arrived(begin(SETTLED, STEADY, Wish("second")))
    assert logins.to_shut_out(held, seen("b", a="old password", b=NEW)) == ["a"]
    assert logins.without(held, ["a"]).passwords == {"b": NEW}
    assert logins.without(held, ["a"]).settled


def test_a_login_that_pods_use_still_is_not_given_another_password() -> None:
    """A second rotation waits for the end of the first."""
    held = logins.arrived(begin(SETTLED, STEADY, Wish("second")))
    assert begin(held, seen("a", "b", a="old password", b=NEW), Wish("third")) == held


@pytest.mark.parametrize("passwords", [{}, {"a": "another"}])
def test_the_database_follows_the_secret(passwords: dict[str, str]) -> None:
    """After a restore from a backup, or a password changed by hand."""
    assert logins.to_let_in(SETTLED, seen("a", **passwords)) == ["a"]


def test_a_former_login_that_is_shut_out_already_is_not_let_in_again() -> None:
    """The operator died between the database and the Secret: only the Secret is left to do."""
    held = Held({"a": "old password", "b": NEW}, active="b", request="second", made=NOW)
    state = seen("b", b=NEW)
    assert logins.to_let_in(held, state) == []
    assert logins.to_shut_out(held, state) == ["a"]


def test_a_login_let_in_that_the_secret_does_not_know_is_shut_out() -> None:
    """Nobody can use it, and nobody should."""
    assert logins.to_shut_out(SETTLED, seen("a", a="old password", b="who knows")) == ["b"]


def test_a_lost_secret_leaves_the_login_that_pods_use_alone() -> None:
    """They go on until they are replaced, by pods with the other one."""
    held = begin(Held(), STEADY, Wish())
    assert held.coming == "b"
    assert logins.to_shut_out(held, STEADY) == []


def test_a_secret_that_is_lost_in_mid_rotation_gets_a_login_all_the_same() -> None:
    """Both are in use then; pods read the new password of theirs from the Secret."""
    assert begin(Held(), seen("a", "b", a="x", b="y"), Wish()).coming == "a"


def test_without_managed_access_every_login_goes_once_it_is_not_used() -> None:
    """Pods that have one yet keep it."""
    held = replace(SETTLED, active=None)
    assert logins.to_shut_out(held, STEADY) == []
    assert logins.to_shut_out(held, seen(a="old password")) == ["a"]
