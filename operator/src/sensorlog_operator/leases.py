"""Connections that several users share: opened for the first who wants one, closed when the last lets go of it."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Leases(Generic[K, V]):
    """What users hold, one each at a time; safe to share between threads that work for different users."""

    def __init__(self, make: Callable[[K], V], close: Callable[[V], None]) -> None:
        self._make = make
        self._close = close
        self._lock = threading.Lock()
        self._wanted: dict[str, K] = {}
        self._made: dict[K, V] = {}

    def lease(self, user: str, wanted: K) -> V:
        """Return what is wanted, made where there is none; the user lets go of what it held before."""
        with self._lock:
            if wanted not in self._made:
                self._made[wanted] = self._make(wanted)
            before = self._wanted.get(user, wanted)
            self._wanted[user] = wanted
            made, unused = self._made[wanted], self._take_unused(before)
        self._close_all(unused)
        return made

    def release(self, user: str) -> None:
        """Let go of what the user holds, if anything."""
        with self._lock:
            if user not in self._wanted:
                return
            unused = self._take_unused(self._wanted.pop(user))
        self._close_all(unused)

    def _take_unused(self, wanted: K) -> list[V]:
        return [] if wanted in self._wanted.values() else [self._made.pop(wanted)]

    def _close_all(self, unused: list[V]) -> None:
        for each in unused:
            self._close(each)
