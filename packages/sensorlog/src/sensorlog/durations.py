"""Durations as people write them in a resource: `250ms`, `30m`, `1h30m`, `7d`.

The grammar is Go's `time.ParseDuration` without signs and fractions, with `d` for 24 hours.
"""

import re
from datetime import timedelta

PATTERN = r"^([0-9]+(ms|s|m|h|d))+$"
"""What a duration looks like, as the CRD's schema and `parse` both check it."""

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")


def parse(text: str) -> timedelta:
    """Return the duration that `text` says; ValueError with the accepted form if it says none."""
    if not re.fullmatch(PATTERN, text):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit (ms, s, m, h, d), like 30m or 7d")
    try:
        return timedelta(milliseconds=sum(int(n) * _MILLISECONDS[unit] for n, unit in _PART.findall(text)))
    except OverflowError as e:
        raise ValueError(f"{text!r} is longer than any duration can be") from e


def milliseconds(text: str) -> int:
    """Return the duration that `text` says in whole milliseconds; ValueError as in `parse`."""
    return parse(text) // timedelta(milliseconds=1)


def text(duration: timedelta) -> str:
    """Return the shortest text of whole milliseconds that `parse` reads as `duration`: `30m`, `1h30m`, `7d`, `0s`."""
    rest = duration // timedelta(milliseconds=1)
    parts: list[str] = []
    for unit, size in sorted(_MILLISECONDS.items(), key=lambda item: -item[1]):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
