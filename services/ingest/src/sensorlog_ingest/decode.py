"""Kafka messages into readings: JSON (an object or an array of them) or protobuf.

Three paths, each tried when the one before does not fit:
    together     all values of a fetch as one JSON document: one call for thousands of messages
    one by one   each value by the same typed decoder
    by element   a message with something bad in it is taken apart: its good readings land, the others are rejected
"""

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensorlog.measurements import Measurement, names
from sensorlog.timestamps import TimestampUnit
from sensorlog_ingest import elements, protobuf
from sensorlog_ingest.limits import Limits
from sensorlog_ingest.messages import Message, any_protobuf, is_protobuf
from sensorlog_ingest.readings import Readings
from sensorlog_ingest.rejections import Reason, Rejection, Rejections
from sensorlog_ingest.schema_types import column, reading_type

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Larger messages are dead letters: decoded, a message takes four times its size in memory, up to eleven times where
most of its readings are rejected."""

MAX_SAMPLED_BYTES = 16 * 1024
"""Messages larger than this are not looked through for unknown fields."""

DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What a value that is not as declared raises: ValidationError is a DecodeError."""


@dataclass(slots=True)
class _Rows:
    """Structs of many messages, flat, with where each came from."""

    rows: list[Any] = field(default_factory=list)
    message: list[NDArray[np.int32]] = field(default_factory=list)
    position: list[NDArray[np.int32]] = field(default_factory=list)

    def add(self, message: int, rows: list[Any], positions: Sequence[int] | None = None) -> None:
        """Add the rows of one message; `positions` where some of its readings are left out."""
        self.rows += rows
        self.message.append(np.full(len(rows), message, np.int32))
        self.position.append(np.array(range(len(rows)) if positions is None else positions, np.int32))


class ReadingDecoder:
    """Decodes messages of readings for one pipeline. Not for use by several threads at once."""

    def __init__(self, measurements: tuple[Measurement, ...], unit: TimestampUnit, ahead_seconds: int) -> None:
        self._limits = Limits(measurements, unit, ahead_seconds)
        self._names = names(measurements)
        self._reading = reading_type(self._names)
        self._one = msgspec.json.Decoder(self._reading)
        self._document = msgspec.json.Decoder(self._reading | list[self._reading])  # type: ignore[name-defined]
        self._documents = msgspec.json.Decoder(
            list[self._reading | list[self._reading] | int]  # type: ignore[name-defined]
        )
        self._get_ts, self._get_sensor_id = attrgetter("ts"), attrgetter("sensor_id")
        self._get_values = [attrgetter(column(i)) for i in range(len(measurements))]

    def decode(self, messages: Sequence[Message], now: float) -> tuple[Readings, Rejections]:
        """Return the readings of `messages` and what was rejected; `now` is in seconds since 1970."""
        rejections: Rejections = {}
        rows, message, position = self._together(messages) or self._one_by_one(messages, rejections)
        readings = self._columns(rows, message, position)
        return self._limits.apply(readings, now, rejections), rejections

    # Together

    def _together(self, messages: Sequence[Message]) -> tuple[list[Any], NDArray[np.int32], NDArray[np.int32]] | None:
        values = [message.value() for message in messages]
        if not all(values) or any_protobuf(messages):
            return None
        if max(map(len, values), default=0) > MAX_MESSAGE_BYTES:  # type: ignore[arg-type]  # none is None here
            return None
        documents = self.decode_joined(values)  # type: ignore[arg-type]
        return None if documents is None else _flat(documents, self._reading)

    def decode_joined(self, values: Sequence[bytes]) -> list[Any] | None:
        """Return each value's reading or list of readings, None where any of the values does not decode.

        The values stand in one JSON array, separated by an integer that no producer can guess:
        `[v0,N,v1,N,v2]`. If that parses with an N at every odd index, then the parser was between two elements of
        the outer array before and after each value, and found one element there: each value is by itself a
        complete document of the declared type. Without N, two broken neighbours could pass as one value while
        another, like `[..],[..]`, makes up for the count.
        """
        separator = secrets.randbits(62)
        try:
            items = self._documents.decode(b"[%b]" % (b",%d," % separator).join(values))
        except DECODE_ERRORS:
            return None
        documents = items[::2]
        if len(items) != 2 * len(values) - 1 or items[1::2] != [separator] * (len(values) - 1):
            return None
        return None if int in set(map(type, documents)) else documents

    # One by one

    def _one_by_one(
        self, messages: Sequence[Message], rejections: Rejections
    ) -> tuple[list[Any], NDArray[np.int32], NDArray[np.int32]]:
        decoded = _Rows()
        for index, message in enumerate(messages):
            value = message.value()
            if not value:
                rejections[index] = [Rejection(Reason.EMPTY_VALUE, "the message has no value")]
            elif len(value) > MAX_MESSAGE_BYTES:
                rejections[index] = [too_large(value)]
            elif is_protobuf(message):
                self._add_protobuf(index, value, decoded, rejections)
            else:
                self._add_json(index, value, decoded, rejections)
        empty = [np.empty(0, np.int32)]
        return decoded.rows, np.concatenate(decoded.message or empty), np.concatenate(decoded.position or empty)

    def _add_protobuf(self, index: int, value: bytes, decoded: _Rows, rejections: Rejections) -> None:
        try:
            items = protobuf.parse(value)
        except protobuf.NotProtobufError as e:
            rejections[index] = [Rejection(Reason.NOT_PROTOBUF, str(e))]
            return
        rows, positions, rejected = protobuf.to_rows(items, self._reading, self._names)
        decoded.add(index, rows, positions)
        if rejected:
            rejections[index] = rejected

    def _add_json(self, index: int, value: bytes, decoded: _Rows, rejections: Rejections) -> None:
        try:
            document = self._document.decode(value)
        except DECODE_ERRORS as error:
            rows, positions, rejections[index] = self._by_element(value, error)
            decoded.add(index, rows, positions)
        else:
            decoded.add(index, document if isinstance(document, list) else [document])

    # By element

    def _by_element(self, value: bytes, error: Exception) -> tuple[list[Any], list[int], list[Rejection]]:
        try:
            parts = elements.split(value)
        except elements.UnreadableError as e:
            return [], [], [Rejection(Reason.NOT_JSON, str(e))]
        rows: list[Any] = []
        positions: list[int] = []
        rejected: list[Rejection] = []
        for position, part in enumerate(parts):
            try:
                rows.append(self._one.decode(part))
                positions.append(position)
            except DECODE_ERRORS as e:
                rejected.append(Rejection(*elements.explain(part, self._names, e), position))
        if not rejected:  # the whole is wrong though every part is right: land nothing that is not understood
            return [], [], [Rejection(Reason.NOT_JSON, str(error))]
        return rows, positions, rejected

    # Columns

    def _columns(self, rows: list[Any], message: NDArray[np.int32], position: NDArray[np.int32]) -> Readings:
        count = len(rows)
        values = np.empty((len(self._names), count), np.float64)
        for i, get in enumerate(self._get_values):
            values[i] = _floats(rows, get)
        return Readings(
            time_us=np.fromiter(map(self._get_ts, rows), np.int64, count),
            sensor_id=np.fromiter(map(self._get_sensor_id, rows), np.int64, count),
            values=values,
            message=message,
            position=position,
        )

    # Unknown fields

    def unknown_fields(self, message: Message) -> set[str]:
        """Return the fields of a JSON message's first reading that the pipeline does not declare.

        The typed decoder skips unknown fields without telling, so the caller looks at a sample of the messages.
        """
        value = message.value() or b""
        if len(value) > MAX_SAMPLED_BYTES or is_protobuf(message):
            return set()
        try:
            document = msgspec.json.decode(value)
        except DECODE_ERRORS:
            return set()
        first = document[0] if isinstance(document, list) and document else document
        return set(first) - {"ts", "sensor_id", *self._names} if isinstance(first, dict) else set()


def _flat(documents: list[Any], reading: type[Any]) -> tuple[list[Any], NDArray[np.int32], NDArray[np.int32]]:
    """Return the rows of documents that are a reading or a list of them, and where each row came from."""
    kinds = set(map(type, documents))
    count = len(documents)
    if kinds == {reading}:
        return documents, np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    if kinds != {list}:
        documents = [document if isinstance(document, list) else [document] for document in documents]
    rows = list(itertools.chain.from_iterable(documents))
    lengths = np.fromiter(map(len, documents), np.int32, count)
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    message = np.repeat(np.arange(count, dtype=np.int32), lengths)
    return rows, message, np.arange(len(rows), dtype=np.int32) - np.repeat(starts, lengths)


def _floats(rows: Iterable[Any], get: Callable[[Any], float | None]) -> NDArray[np.float64]:
    values = list(map(get, rows))
    return np.array(values, np.float64)  # None becomes NaN


def too_large(value: bytes) -> Rejection:
    """Return why a value of more than MAX_MESSAGE_BYTES is not decoded."""
    return Rejection(Reason.TOO_LARGE, f"{len(value)} bytes; at most {MAX_MESSAGE_BYTES} are decoded")
