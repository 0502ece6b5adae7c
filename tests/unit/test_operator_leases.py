"""Connections that users share: opened once, closed when nobody wants them any more."""

from sensorlog_operator.leases import Leases


class Opened:
    """What was opened and is not closed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def open(self, name: str) -> str:
        """Open one of this name."""
        self.names.append(name)
        return name

    def leases(self) -> Leases[str, str]:
        """Return leases of these."""
        return Leases(self.open, self.names.remove)


def test_who_wants_the_same_shares_it_until_the_last_lets_go() -> None:
    """However often each asks."""
    opened = Opened()
    leases = opened.leases()
    for user in ("a", "b", "a"):
        assert leases.lease(user, "x") == "x"
    assert opened.names == ["x"]
    leases.release("a")
    assert opened.names == ["x"]
    leases.release("b")
    assert opened.names == []


def test_who_wants_another_lets_go_of_the_one_before() -> None:
    """Such as after a password was rotated; who still wants that one keeps it."""
    opened = Opened()
    leases = opened.leases()
    leases.lease("a", "old")
    leases.lease("b", "old")
    leases.lease("a", "new")
    assert opened.names == ["old", "new"]
    leases.lease("b", "new")
    assert opened.names == ["new"]


def test_who_holds_nothing_may_let_go() -> None:
    """A pipeline that is gone before its first canary."""
    opened = Opened()
    leases = opened.leases()
    leases.lease("a", "x")
    leases.release("b")
    leases.release("a")
    leases.release("a")
    assert opened.names == []
