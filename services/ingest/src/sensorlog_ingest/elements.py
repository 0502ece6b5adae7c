"""The slow path of decoding: the raw text of single readings, and what is wrong with one.

Only messages that hold something bad come here.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sensorlog_ingest.rejections import Reason, shown
from sensorlog_ingest.schema_types import INT64_MAX, INT64_MIN

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_RAW_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_MAX_DIGITS = 400
"""An integer of more digits overflows every type here; Python refuses to convert more than 4300."""

Problem = tuple[Reason, str]


class UnreadableError(Exception):
    """The value cannot be taken apart into readings; the message says where."""


def split(value: bytes) -> list[bytes]:
    """Return the raw text of each element of a JSON array, or the value itself where it is no array.

    NaN and Infinity, which JSON does not know but many encoders write, are let through: so the readings around one
    are found. Raises UnreadableError.
    """
    if not value.lstrip(b" \t\n\r").startswith(b"["):
        return [value]
    try:
        return [bytes(element) for element in _RAW_ARRAY.decode(value)]
    except (msgspec.DecodeError, RecursionError):
        return _split_leniently(value)


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
    except RecursionError as e:
        raise UnreadableError("nested too deeply") from e


def _after_space(text: str, at: int) -> int:
    match = _WHITESPACE.match(text, at)
    return match.end() if match else at


def explain(element: bytes, measurements: Sequence[str], error: Exception) -> Problem:
    """Return what is wrong with one reading that the typed decoder refused with `error`."""
    return _explain(element, lambda fields: _problem_of_reading(fields, measurements), error)


def explain_sensor(element: bytes, error: Exception) -> Problem:
    """Return what is wrong with one sensor that the typed decoder refused with `error`."""
    return _explain(element, _problem_of_sensor, error)


def _explain(element: bytes, look: Callable[[dict[str, Any]], Problem | None], error: Exception) -> Problem:
    try:
        document = json.loads(element.decode("utf-8", "replace"), parse_int=_parse_int)
    except (ValueError, RecursionError):
        return Reason.NOT_JSON, str(error) or type(error).__name__
    if not isinstance(document, dict):
        return Reason.WRONG_TYPE, f"expected an object, got {shown(document)}"
    return look(document) or (Reason.NOT_JSON, str(error))


def _parse_int(text: str) -> int:
    return int(text[:_MAX_DIGITS])


def _problem_of_reading(fields: dict[str, Any], measurements: Sequence[str]) -> Problem | None:
    problems = (
        _problem_of_int(fields, "ts", Reason.MISSING_TS),
        _problem_of_int(fields, "sensor_id", Reason.MISSING_SENSOR_ID),
        *(_problem_of_float(name, fields.get(name)) for name in measurements),
    )
    return next((problem for problem in problems if problem), None)


def _problem_of_sensor(fields: dict[str, Any]) -> Problem | None:
    problem = _problem_of_int(fields, "id", Reason.MISSING_ID)
    if problem:
        return problem
    for name in ("type", "location"):
        if not isinstance(fields.get(name), str | None):
            return Reason.WRONG_TYPE, f"{name} must be a string or null, got {shown(fields[name])}"
    return None


def _problem_of_int(fields: dict[str, Any], name: str, missing: Reason) -> Problem | None:
    value = fields.get(name)
    if value is None:
        return missing, f"{name} is missing"
    if type(value) is not int:  # a bool is an int to Python, not to JSON
        return Reason.WRONG_TYPE, f"{name} must be an integer, got {shown(value)}"
    if not INT64_MIN <= value <= INT64_MAX:
        return Reason.INTEGER_OVERFLOW, f"{name} must fit in 64 bits, got {shown(value)}"
    return None


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
