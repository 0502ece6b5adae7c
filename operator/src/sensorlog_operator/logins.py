"""Which of a component's two logins is in use, and how that changes. Pure: what is seen comes in, what to do goes out.

A rotation takes these steps, each of which can be repeated, and none of which remembers the one before:

    1. the Secret gets a password for the spare login, which is then `coming`
    2. the database gets that password, and the login is tried where the pods will use it
    3. the Secret says that it is the `active` one, and the pod template names it: pods are replaced one by one
    4. once no pod names the old login, the database shuts it out and the Secret forgets its password

Until step 4 both are good, so that no pod meets a password that is not. A password is in the Secret before it is in
the database: an operator that dies between two steps finds it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sensorlog_operator.roles import SLOTS, Slot, fingerprint


@dataclass(frozen=True, slots=True)
class Held:
    """What the Secret holds of one component's logins; `passwords` are those of the logins that may be in use.

    `request` is the text of the annotation that the newest password answers, `made` when it was made.
    """

    passwords: Mapping[Slot, str] = field(default_factory=dict)
    active: Slot | None = None
    coming: Slot | None = None
    request: str = ""
    made: datetime | None = None

    @property
    def settled(self) -> bool:
        """Whether there is one login and no other."""
        return self.coming is None and set(self.passwords) == {self.active}


@dataclass(frozen=True, slots=True)
class Seen:
    """What is true of these logins: their names, whose fingerprints the database has, which ones pods may be using."""

    names: Mapping[Slot, str]
    fingerprints: Mapping[Slot, str] = field(default_factory=dict)
    in_use: frozenset[Slot] = frozenset()


@dataclass(frozen=True, slots=True)
class Wish:
    """What asks for a new password: the annotation's text, and the age after which one is replaced anyway."""

    request: str = ""
    every: timedelta | None = None

    def due(self, held: Held, now: datetime) -> bool:
        """Return whether the newest password is not the one that is wished for."""
        asked = self.request not in ("", held.request)
        aged = self.every is not None and (held.made is None or now - held.made >= self.every)
        return asked or aged


def at_rest(held: Held, seen: Seen, wish: Wish, now: datetime) -> bool:
    """Return whether nothing is to be done, whichever logins are in use: there is one, which the database lets in."""
    if held.active is None or not held.settled or wish.due(held, now):
        return False
    return seen.fingerprints == {held.active: fingerprint(seen.names[held.active], held.passwords[held.active])}


def begin(held: Held, seen: Seen, wish: Wish, now: datetime, password: str) -> Held:
    """Return what to hold with `password` for a login to come, if one is due and a login is free for it."""
    if held.coming or not (held.active is None or wish.due(held, now)):
        return held
    spare = next((s for s in SLOTS if s not in seen.in_use and s not in held.passwords), None)
    if spare is None and held.active is None:
        spare = "a"  # the Secret was lost in mid-rotation: pods on this login read its new password from the Secret
    if spare is None:
        return held
    return replace(held, passwords={**held.passwords, spare: password}, coming=spare, request=wish.request, made=now)


def to_let_in(held: Held, seen: Seen) -> list[Slot]:
    """Return the logins whose password in the database must become the Secret's."""
    wanted = {held.active, held.coming} | seen.in_use
    return [
        slot
        for slot, password in held.passwords.items()
        if slot in wanted and seen.fingerprints.get(slot) != fingerprint(seen.names[slot], password)
    ]


def arrived(held: Held) -> Held:
    """Return what to hold once the coming login was tried and is good."""
    return replace(held, active=held.coming, coming=None) if held.coming else held


def to_shut_out(held: Held, seen: Seen) -> list[Slot]:
    """Return the logins that nobody uses any more, as long as the database lets them in or the Secret holds them."""
    kept = {held.active, held.coming} | seen.in_use
    return [slot for slot in SLOTS if slot not in kept and (slot in seen.fingerprints or slot in held.passwords)]


def without(held: Held, slots: list[Slot]) -> Held:
    """Return what to hold once these logins are shut out."""
    return replace(held, passwords={slot: p for slot, p in held.passwords.items() if slot not in slots})
