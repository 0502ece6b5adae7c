"""The slow path of decoding: the raw text of single readings, and what is wrong with one.

Only messages that hold something bad come here.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensorlog_ingest.rejections import Reason, shown
from sensorlog_ingest.schema_types import INT64_MAX, INT64_MIN

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_RAW_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_MAX_DIGITS = 400
"""An integer of more digits overflows every type here; Python refuses to convert more than 4300."""

MAX_NESTING = 256
"""Deeper arrays are taken apart without recursion: how deep that could go depends on how much stack the caller left."""

MAX_SHORT_ELEMENTS = 100_000
SHORTEST_ELEMENT_BYTES = len('{"id":1}')
"""An array of more elements than that, on average shorter than any sensor or reading can be, is not taken apart.

A rejected element takes some 300 bytes of memory however short it is: 4 MiB of `[1,1,..]` took 640 MiB.
"""

_CHUNK_BYTES = 1024 * 1024
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1

Problem = tuple[Reason, str]


class UnreadableError(Exception):
    """The value cannot be taken apart into readings; the message says where."""


def split(value: bytes) -> list[bytes]:
    """Return the raw text of each element of a JSON array, or the value itself where it is no array.

    NaN and Infinity, which JSON does not know but many encoders write, are let through: so the readings around one
    are found. Of arrays nested deeper than MAX_NESTING the elements are found but not looked into. The same value
    is always split the same way. Raises UnreadableError.
    """
    if not value.lstrip(b" \t\n\r").startswith(b"["):
        return [value]
    _refuse_short_elements(value)
    if _is_deep(value):
        return _split_by_brackets(value)
    try:
        return [bytes(element) for element in _RAW_ARRAY.decode(value)]
    except msgspec.DecodeError:
        return _split_leniently(value)


class _Chunk(NamedTuple):
    """A piece of a value: where it starts, its bytes outside of strings (0 for the others), and its depths.

    A depth says how many brackets are open after the byte.
    """

    start: int
    text: NDArray[np.uint8]
    depths: NDArray[np.int64]


def _chunks(value: bytes) -> Iterator[_Chunk]:
    """Read a value's brackets without recursion, and without more memory than the value takes."""
    value = value.replace(rb"\\", b"__").replace(rb"\"", b"__")  # so that every quote left begins or ends a string
    quotes = depth = 0
    for start in range(0, len(value), _CHUNK_BYTES):
        text = np.frombuffer(value[start : start + _CHUNK_BYTES], np.uint8)
        inside = (quotes + np.cumsum(text == ord('"'))) % 2
        outside = np.where(inside, np.uint8(0), text)
        depths = depth + np.cumsum(_STEPS[outside], dtype=np.int64)
        yield _Chunk(start, outside, depths)
        quotes, depth = int(inside[-1]), int(depths[-1])


def _refuse_short_elements(value: bytes) -> None:
    if value.count(b",") < MAX_SHORT_ELEMENTS:
        return
    commas = sum(np.count_nonzero((chunk.text == ord(",")) & (chunk.depths == 1)) for chunk in _chunks(value))
    if commas >= MAX_SHORT_ELEMENTS and len(value) < commas * (SHORTEST_ELEMENT_BYTES + 1):
        raise UnreadableError(f"{commas + 1} elements in {len(value)} bytes are too short to be readings or sensors")


def _is_deep(value: bytes) -> bool:
    if value.count(b"[") + value.count(b"{") <= MAX_NESTING:
        return False
    return any(chunk.depths.max() > MAX_NESTING for chunk in _chunks(value))


def _split_by_brackets(value: bytes) -> list[bytes]:
    value = value.strip(b" \t\n\r")
    borders, closed = [0], []
    for start, text, depths in _chunks(value):
        borders += (start + np.flatnonzero((text == ord(",")) & (depths == 1))).tolist()
        closed += (start + np.flatnonzero(depths < 1)).tolist()
    end = len(value) - 1
    if closed != [end]:
        raise UnreadableError("its brackets do not match, or something follows the array")
    return [value[left + 1 : right].strip(b" \t\n\r") for left, right in itertools.pairwise([*borders, end])]


def _skip(_text: str) -> None:
    """Stand in for the conversion of a number."""


_SCANNER = json.JSONDecoder(parse_int=_skip, parse_float=_skip, parse_constant=_skip)


def _split_leniently(value: bytes) -> list[bytes]:
    text = value.decode("latin-1")  # one character per byte, so positions in the text are positions in the value
    elements: list[bytes] = []
    at = _after_space(text, _after_space(text, 0) + 1)
    while True:
        end = _end_of_element(text, at)
        elements.append(value[at:end])
        at = _after_space(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise UnreadableError(f"expected a comma or the end of the array at byte {at}")
        at = _after_space(text, at + 1)
    if _after_space(text, at + 1) != len(text):
        raise UnreadableError(f"something follows the end of the array at byte {at + 1}")
    return elements


def _end_of_element(text: str, start: int) -> int:
    try:
        return _SCANNER.raw_decode(text, start)[1]
    except json.JSONDecodeError as e:
        raise UnreadableError(f"{e.msg} at byte {e.pos}") from e


def _after_space(text: str, at: int) -> int:
    match = _WHITESPACE.match(text, at)
    return match.end() if match else at


def explain(element: bytes, measurements: Sequence[str], error: Exception) -> Problem:
    """Return what is wrong with one reading that the typed decoder refused with `error`."""
    return _explain(element, lambda fields: _problem_of_reading(fields, measurements), error)


def explain_sensor(element: bytes, error: Exception) -> Problem:
    """Return what is wrong with one sensor that the typed decoder refused with `error`."""
    return _explain(element, _problem_of_sensor, error)


def _explain(element: bytes, look: Callable[["_Fields"], Problem | None], error: Exception) -> Problem:
    unreadable = (Reason.NOT_JSON, str(error) or type(error).__name__)
    try:
        document = _EXPLAINER.decode(element.decode("utf-8", "replace"))
        if not isinstance(document, _Fields):
            return Reason.WRONG_TYPE, f"expected an object, got {shown(document)}"
        return look(document) or unreadable
    except (ValueError, RecursionError):  # quoting what is nested deeply takes as much stack as parsing it
        return unreadable


class _Fields(dict[str, Any]):
    """The fields of a JSON object, which may name one twice: the typed decoder looks at each."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs if len(pairs) > len(self) else None

    def every(self, name: str) -> list[Any]:
        """Return each value of the field, in order."""
        if self._pairs:
            return [value for field, value in self._pairs if field == name]
        return [self[name]] if name in self else []


def _parse_int(text: str) -> int:
    return int(text[:_MAX_DIGITS])


_EXPLAINER = json.JSONDecoder(parse_int=_parse_int, object_pairs_hook=_Fields)


def _problem_of_reading(fields: _Fields, measurements: Sequence[str]) -> Problem | None:
    problems = (
        _problem_of_required(fields, "ts", Reason.MISSING_TS),
        _problem_of_required(fields, "sensor_id", Reason.MISSING_SENSOR_ID),
        *(_first(_problem_of_float(name, value) for value in fields.every(name)) for name in measurements),
    )
    return _first(problems)


def _problem_of_sensor(fields: _Fields) -> Problem | None:
    texts = (_problem_of_text(name, value) for name in ("type", "location") for value in fields.every(name))
    return _problem_of_required(fields, "id", Reason.MISSING_ID) or _first(texts)


def _first(problems: Iterable[Problem | None]) -> Problem | None:
    return next((problem for problem in problems if problem), None)


def _problem_of_required(fields: _Fields, name: str, missing: Reason) -> Problem | None:
    values = fields.every(name) or [None]
    return _first(_problem_of_int(name, value, missing) for value in values)


def _problem_of_int(name: str, value: object, missing: Reason) -> Problem | None:
    if value is None:
        return missing, f"{name} is missing"
    if type(value) is not int:  # a bool is an int to Python, not to JSON
        return Reason.WRONG_TYPE, f"{name} must be an integer, got {shown(value)}"
    if not INT64_MIN <= value <= INT64_MAX:
        return Reason.INTEGER_OVERFLOW, f"{name} must fit in 64 bits, got {shown(value)}"
    return None


def _problem_of_text(name: str, value: object) -> Problem | None:
    if isinstance(value, str | None):
        return None
    return Reason.WRONG_TYPE, f"{name} must be a string or null, got {shown(value)}"


def _problem_of_float(name: str, value: object) -> Problem | None:
    if value is None:
        return None
    if type(value) not in (int, float):
        return Reason.WRONG_TYPE, f"{name} must be a number or null, got {shown(value)}"
    if not _is_finite(value):
        return Reason.NOT_FINITE, f"{name} must be a finite double, got {shown(value)}"
    return None


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False
