"""Waiting on conditions with deadlines: tests never sleep blindly."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.1


def wait_until(look: Callable[[], T], satisfied: Callable[[T], bool] = bool, *, deadline: float, what: str) -> T:
    """Return what `look` sees as soon as it satisfies; AssertionError after `deadline` seconds says what it last saw.

    Errors that `look` raises count as "not yet", because a condition often asks something that is still starting.
    """
    end = time.monotonic() + deadline
    while True:
        try:
            seen = look()
            if satisfied(seen):
                return seen
            last = f"saw {seen!r}"
        except Exception as e:  # noqa: BLE001 -- reported below when the time is up
            last = f"got {type(e).__name__}: {e}"
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:.0f} s for {what}; last {last}")
        time.sleep(POLL_SECONDS)


def wait_for_value(look: Callable[[], T], expected: T, *, deadline: float, what: str) -> T:
    """Return when `look` sees `expected`; otherwise as `wait_until`."""
    return wait_until(look, lambda seen: seen == expected, deadline=deadline, what=f"{what} to be {expected!r}")
