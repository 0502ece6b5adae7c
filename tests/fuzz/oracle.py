"""Which readings and sensors are good: docs/dead-letters.md written down once more, slowly and simply.

Nothing here is shared with the decoder: JSON is parsed by the standard library, numbers stay text until a rule needs
them, every reading is judged by itself. Where the page is silent, this is what holds:

- An array is taken apart where it is JSON but for NaN and Infinity; each of its readings then stands for itself.
- NaN, Infinity or the escape of a lone surrogate anywhere in a reading makes it no JSON, if no declared field is worse.
- The bytes of undeclared strings are not looked at: they need not be UTF-8.
- Of a field that is named twice each value must be right; the last counts.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sensorlog.measurements import Measurement
from sensorlog.rpc.logger_pb2 import SensorData
from sensorlog.timestamps import TimestampUnit, to_microseconds
from sensorlog_ingest.rejections import Reason

MAX_DEPTH = 100
"""Deeper documents are not judged: whether they can be parsed depends on the stack."""

MAX_INTEGER_DIGITS = 30
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pipeline:
    """What decides which readings are good."""

    unit: TimestampUnit
    measurements: tuple[Measurement, ...]
    latest: int


class Row(NamedTuple):
    """A good reading: values are shown by `repr`, so that -0.0 is not 0.0; None is NULL."""

    position: int
    time_us: int
    sensor_id: int
    values: tuple[str | None, ...]


class SensorRow(NamedTuple):
    """A good sensor."""

    position: int
    id: int
    type: str | None
    location: str | None


Rejected = tuple[int | None, Reason]
"""The position of what is refused, None for the whole message, and why."""


class Verdict(NamedTuple):
    """What must come of one message."""

    good: list[Any]
    rejected: list[Rejected]


# JSON, with its numbers as text


class Number(str):
    """A number as it was written."""

    __slots__ = ()


class Constant(str):
    """NaN, Infinity or -Infinity."""

    __slots__ = ()


class Fields(tuple[tuple[str, Any], ...]):
    """The fields of an object, in order; names may occur twice."""

    __slots__ = ()

    def every(self, name: str) -> list[Any]:
        """Return each value of the field."""
        return [value for field, value in self if field == name]


_DECODER = json.JSONDecoder(object_pairs_hook=Fields, parse_int=Number, parse_float=Number, parse_constant=Constant)


def parse(value: bytes, encoding: str = "latin-1") -> Any:
    """Return a document: Fields, lists, str, Number, Constant, bool, None; ValueError where it is none.

    In latin-1 every byte is a character, so that only escapes can make a surrogate.
    """
    return _DECODER.decode(value.decode(encoding, "surrogateescape"))


def depth(value: bytes) -> int:
    """Return how deep the brackets outside of strings are nested, at most."""
    deepest = current = 0
    for token in re.findall(rb'"(?:\\.|[^"\\])*"|[\[{]|[\]}]', value, re.DOTALL):
        current += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token, 0)
        deepest = max(deepest, current)
    return deepest


def is_array(value: bytes) -> bool:
    """Return whether a value begins like an array: then what is rejected has a position only if it parses."""
    return value.lstrip(b" \t\n\r").startswith(b"[")


def _leaves(document: Any) -> Iterator[str]:
    if isinstance(document, Fields):
        for name, value in document:
            yield name
            yield from _leaves(value)
    elif isinstance(document, list):
        for item in document:
            yield from _leaves(item)
    elif isinstance(document, str):
        yield document


def _is_json(document: Any) -> bool:
    return not any(isinstance(leaf, Constant) or _SURROGATE.search(leaf) for leaf in _leaves(document))


# Rules


class Refused(Exception):  # noqa: N818  # not an error: the other verdict
    """A reading or sensor is refused, for the reason in args[0]."""


def json_readings(value: bytes | None, pipeline: Pipeline) -> Verdict:
    """Return what must come of a JSON message of readings."""
    return _judge(value, lambda document, position: _reading(document, position, pipeline))


def json_sensors(value: bytes | None) -> Verdict:
    """Return what must come of a message of sensors."""
    try:
        strict = parse(value or b"", "utf-8")
    except ValueError:
        strict = None
    texts = strict if isinstance(strict, list) else [strict]
    return _judge(value, lambda document, position: _sensor(document, texts[position], position))


def protobuf_readings(items: Sequence[SensorData], pipeline: Pipeline) -> Verdict:
    """Return what must come of the readings of a SensorDataList; no readings are no list."""
    if not items:
        return Verdict([], [(None, Reason.NOT_PROTOBUF)])
    return _each(list(items), lambda item, position: _protobuf_reading(item, position, pipeline))


def _judge(value: bytes | None, judge: Any) -> Verdict:
    if not value:
        return Verdict([], [(None, Reason.EMPTY_VALUE)])
    try:
        document = parse(value)
    except ValueError:
        return Verdict([], [(None if is_array(value) else 0, Reason.NOT_JSON)])
    return _each(document if isinstance(document, list) else [document], judge)


def _each(items: list[Any], judge: Any) -> Verdict:
    verdict = Verdict([], [])
    for position, item in enumerate(items):
        try:
            verdict.good.append(judge(item, position))
        except Refused as e:
            verdict.rejected.append((position, e.args[0]))
    return verdict


def _reading(document: Any, position: int, pipeline: Pipeline) -> Row:
    if not isinstance(document, Fields):
        raise Refused(Reason.WRONG_TYPE)
    ts = _integer(document.every("ts"), Reason.MISSING_TS)
    sensor_id = _integer(document.every("sensor_id"), Reason.MISSING_SENSOR_ID)
    values = [_measured(document.every(m.name)) for m in pipeline.measurements]
    if not _is_json(document):
        raise Refused(Reason.NOT_JSON)
    return _within(Row(position, ts, sensor_id, ()), values, pipeline)


def _sensor(document: Any, strict: Any, position: int) -> SensorRow:
    if not isinstance(document, Fields):
        raise Refused(Reason.WRONG_TYPE)
    sensor_id = _integer(document.every("id"), Reason.MISSING_ID)
    names = ("type", "location")
    for value in (value for name in names for value in document.every(name)):
        if isinstance(value, Number | Constant) or not isinstance(value, str | None):
            raise Refused(Reason.WRONG_TYPE)
    texts = [strict.every(name) for name in names]
    if not _is_json(document) or any(_SURROGATE.search(text or "") for every in texts for text in every):
        raise Refused(Reason.NOT_JSON)
    kind, location = (every[-1] if every else None for every in texts)
    if "\0" in (kind or "") + (location or ""):
        raise Refused(Reason.WRONG_TYPE)
    return SensorRow(position, sensor_id, kind, location)


def _protobuf_reading(item: SensorData, position: int, pipeline: Pipeline) -> Row:
    if item.ts == 0:
        raise Refused(Reason.MISSING_TS)
    present = dict(item.measurements) | {
        field.name: value for field, value in item.ListFields() if field.name in ("temperature", "cpu")
    }
    values = [present.get(m.name) for m in pipeline.measurements]
    if not all(value is None or math.isfinite(value) for value in values):
        raise Refused(Reason.NOT_FINITE)
    return _within(Row(position, item.ts, item.sensor_id, ()), values, pipeline)


def _integer(values: list[Any], missing: Reason) -> int:
    for value in values or [None]:
        if value is None:
            raise Refused(missing)
        if not isinstance(value, Number) or not re.fullmatch("-?[0-9]+", value):
            raise Refused(Reason.WRONG_TYPE)
        if len(value) > MAX_INTEGER_DIGITS or not -(2**63) <= int(value) < 2**63:
            raise Refused(Reason.INTEGER_OVERFLOW)
    return int(values[-1])


def _measured(values: list[Any]) -> float | None:
    for value in values:
        if not isinstance(value, Number | Constant | None):
            raise Refused(Reason.WRONG_TYPE)
        if value is not None and not math.isfinite(float(value)):
            raise Refused(Reason.NOT_FINITE)
    last = values[-1] if values else None
    if last == "-0":  # an integer, and integers have one zero
        return 0.0
    return None if last is None else float(last)


def _within(row: Row, values: Sequence[float | None], pipeline: Pipeline) -> Row:
    if not 0 <= row.time_us <= pipeline.latest:
        raise Refused(Reason.TS_OUT_OF_WINDOW)
    for value, m in zip(values, pipeline.measurements, strict=True):
        if value is None:
            continue
        if (m.min is not None and value < m.min) or (m.max is not None and value > m.max):
            raise Refused(Reason.OUT_OF_RANGE)
    shown = tuple(None if value is None else repr(value) for value in values)
    return row._replace(time_us=to_microseconds(row.time_us, pipeline.unit), values=shown)
