"""How long to wait before the next attempt."""

import random


class Backoff:
    """Seconds that grow from `first` to `longest` by doubling, each drawn between half and all of it.

    The jitter keeps many processes from coming back to a database at the same moment.
    """

    def __init__(self, first: float = 0.1, longest: float = 10.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Start from `first` again, after a success."""
        self._next = self._first

    def next_delay(self) -> float:
        """Return the seconds to wait now."""
        delay = self._next
        self._next = min(self._longest, delay * 2)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter, not cryptography
