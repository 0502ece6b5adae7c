"""Fuzz targets: each takes any bytes and raises AssertionError where ingest does not what the oracle says.

They need no fuzzer: the corpus is replayed by tests/unit/test_ingest_fuzz_corpus.py.
"""

import base64
import json
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fuzz import oracle
from sensorlog.measurements import DEFAULT_MEASUREMENTS, Measurement
from sensorlog.rpc.logger_pb2 import SensorDataList
from sensorlog.timestamps import PER_SECOND, POSTGRES_EPOCH_US, TimestampUnit
from sensorlog_ingest.dead_letters import dead_letter, headers_as_json
from sensorlog_ingest.decode import ReadingDecoder
from sensorlog_ingest.encode import encode
from sensorlog_ingest.messages import Message
from sensorlog_ingest.readings import Readings
from sensorlog_ingest.rejections import Rejection, Rejections
from sensorlog_ingest.sensors import SensorDecoder
from support.messages import PROTOBUF, FakeMessage

SEPARATOR = b"\x1e"
"""Stands between the messages of an input: a control character, of which JSON has no other use."""

MAX_JOINED = 8
NOW = 1_700_000_000
AHEAD_SECONDS = 86_400


def _pipeline(unit: TimestampUnit, *measurements: Measurement) -> oracle.Pipeline:
    return oracle.Pipeline(unit, measurements, (NOW + AHEAD_SECONDS) * PER_SECOND[unit])


PIPELINES = (
    _pipeline("s", *DEFAULT_MEASUREMENTS),
    _pipeline("ns", Measurement(name="cpu"), Measurement(name="temperature")),
    _pipeline("ms", Measurement(name="temperature", min=0), Measurement(name="humidity", max=-1)),
)
"""Of each input the first byte chooses one of them."""

_DECODERS = [ReadingDecoder(p.measurements, p.unit, AHEAD_SECONDS) for p in PIPELINES]
_SENSORS = SensorDecoder()


def json_together(data: bytes) -> None:
    """Several messages in one fetch: each comes out as the oracle says and as it would alone."""
    pipeline, rest = _choose(data)
    values = rest.split(SEPARATOR)[:MAX_JOINED]
    check_readings([FakeMessage(value) for value in values], pipeline)


def json_single(data: bytes) -> None:
    """One message between two good ones, which always land."""
    pipeline, value = _choose(data)
    good = FakeMessage(b'{"ts":1,"sensor_id":1}')
    check_readings([good, FakeMessage(value), good], pipeline)


def protobuf(data: bytes) -> None:
    """One message under the header of protobuf, beside one of JSON."""
    pipeline, value = _choose(data)
    check_readings([FakeMessage(b"[]"), FakeMessage(value, the_headers=PROTOBUF)], pipeline)


def sensors(data: bytes) -> None:
    """Messages of the topic of sensors, each by itself."""
    messages = [FakeMessage(value) for value in data.split(SEPARATOR)[:MAX_JOINED]]
    rows, rejections = _SENSORS.decode(messages)
    for index, message in enumerate(messages):
        good = [
            oracle.SensorRow(r.position, r.sensor.id, r.sensor.type, r.sensor.location)
            for r in rows
            if r.message == index
        ]
        verdict = oracle.Verdict(good, _rejected(rejections.get(index, [])))
        _check_letter(message, rejections.get(index, []))
        if oracle.depth(message.value() or b"") > oracle.MAX_DEPTH:
            continue
        expected = oracle.json_sensors(message.value())
        assert verdict == expected, (message.value(), verdict, expected)
        part = _check_part(message, rejections.get(index, []))
        if part is not None:
            again, rejected = _SENSORS.decode([FakeMessage(part)])
            assert not again
            assert _reasons(rejected[0]) == _reasons(rejections[index])


def headers(data: bytes) -> None:
    """Headers of any bytes: what jsonb holds is exactly what came, in its order."""
    parts = data.split(SEPARATOR)
    names = [name.decode("utf-8", "replace") for name in parts[::2]]
    values = [None if value == b"-" else value for value in parts[1::2]]
    pairs = list(zip(names, values, strict=False))
    text = headers_as_json(FakeMessage(b"x", the_headers=pairs))
    if not pairs:
        assert text is None
        return
    assert text is not None
    text.encode()
    kept = json.loads(text)
    assert [_header_value(header) for header in kept] == [value for _, value in pairs]
    assert [header["key"] for header in kept] == [name.replace("\0", "\ufffd") for name, _ in pairs]
    assert not any("\0" in str(part) for header in kept for part in header.values())


def copy(data: bytes) -> None:
    """Columns of any numbers: the COPY document is byte for byte what its format says."""
    measurements, data = data[:1][0] % 5 if data else 0, data[1:]
    record = struct.Struct(f"<qq{measurements}d")
    rows = [record.unpack_from(data, at) for at in range(0, len(data) - record.size + 1, record.size)]
    rows = [(abs(time) >> 1, *others) for time, *others in rows]
    document = encode(
        Readings(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2:] for row in rows], np.float64).reshape(len(rows), measurements).T,
            np.zeros(len(rows), np.int32),
            np.arange(len(rows), dtype=np.int32),
        )
    )
    tuples = b"".join(map(_copy_tuple, rows))
    assert document == b"PGCOPY\n\xff\r\n\0" + bytes(8) + tuples + b"\xff\xff"


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (json_together, json_single, protobuf, sensors, headers, copy)
}


def _copy_tuple(row: Sequence[Any]) -> bytes:
    time, sensor_id, *values = row
    fields = [struct.pack(">q", time - POSTGRES_EPOCH_US), struct.pack(">q", sensor_id)]
    parts = [struct.pack(">i", len(field)) + field for field in fields]
    parts += [struct.pack(">i", -1) if math.isnan(v) else struct.pack(">id", 8, v) for v in values]
    return struct.pack(">h", len(row)) + b"".join(parts)


def _header_value(header: dict[str, Any]) -> bytes | None:
    if "base64" in header:
        return base64.b64decode(header["base64"], validate=True)
    value = header["value"]
    return None if value is None else str(value).encode()


def _choose(data: bytes) -> tuple[int, bytes]:
    return (data[0] % len(PIPELINES) if data else 0), data[1:]


# Readings


def check_readings(messages: Sequence[Message], pipeline: int) -> None:
    """Check what comes of messages in one fetch against the oracle; `pipeline` is an index of PIPELINES."""
    decoder = _DECODERS[pipeline]
    readings, rejections = decoder.decode(messages, NOW)
    for index, message in enumerate(messages):
        verdict = _verdict(readings, rejections, index)
        assert verdict == _alone(message, pipeline), "neighbours change what comes of a message"
        decoder.unknown_fields(message)
        _check_letter(message, rejections.get(index, []))
        _check_verdict(message, verdict, rejections.get(index, []), pipeline)


def _check_verdict(message: Message, verdict: oracle.Verdict, rejected: list[Rejection], pipeline: int) -> None:
    expected = _expected(message, pipeline)
    if expected is None:
        return
    assert verdict == expected, (message.value(), verdict, expected)
    part = _check_part(message, rejected)
    if part is not None:
        again = _alone(FakeMessage(part, the_headers=message.headers() or ()), pipeline)
        assert not again.good, "a dead letter, sent again, would store a reading twice"
        assert [reason for _, reason in again.rejected] == [reason for _, reason in verdict.rejected]


def _expected(message: Message, pipeline: int) -> oracle.Verdict | None:
    """Return the oracle's verdict; None where it has none."""
    value = message.value()
    if message.headers() and value:
        return oracle.protobuf_readings(_items(value), PIPELINES[pipeline])
    if oracle.depth(value or b"") > oracle.MAX_DEPTH:
        return None
    return oracle.json_readings(value, PIPELINES[pipeline])


def _alone(message: Message, pipeline: int) -> oracle.Verdict:
    return _verdict(*_DECODERS[pipeline].decode([message], NOW), 0)


def _verdict(readings: Readings, rejections: Rejections, index: int) -> oracle.Verdict:
    mine = readings.take(readings.message == index)
    values = [tuple(None if math.isnan(v) else repr(v) for v in row) for row in mine.values.T.tolist()]
    columns = (mine.position.tolist(), mine.time_us.tolist(), mine.sensor_id.tolist(), values)
    good = [oracle.Row(*row) for row in zip(*columns, strict=True)]
    return oracle.Verdict(good, _rejected(rejections.get(index, [])))


def _items(value: bytes) -> list[Any]:
    try:
        return list(SensorDataList.FromString(value).items)
    except DecodeError:
        return []


# Dead letters


def _rejected(rejections: Sequence[Rejection]) -> list[oracle.Rejected]:
    return sorted(((r.position, r.reason) for r in rejections), key=lambda rejected: rejected[0] or 0)


def _reasons(rejections: Sequence[Rejection]) -> list[str]:
    return [reason for _, reason in _rejected(rejections)]


def _check_letter(message: Message, rejected: Sequence[Rejection]) -> None:
    """Check that what was rejected makes a row that PostgreSQL can store."""
    if not rejected:
        return
    letter = dead_letter(message, rejected)
    assert letter.reason == _reasons(rejected)[0]
    assert "\0" not in letter.detail
    assert letter.detail.encode()


def _check_part(message: Message, rejected: Sequence[Rejection]) -> bytes | None:
    """Return the dead letter's value after checking that it holds the rejected readings and nothing else."""
    value = message.value()
    if not rejected or value is None:
        return None
    part = dead_letter(message, rejected).value
    assert part is not None
    positions = [position for position, _ in _rejected(rejected)]
    if message.headers():
        if positions != [None]:
            kept = [item.SerializeToString(deterministic=True) for item in _items(part)]
            all_items = [item.SerializeToString(deterministic=True) for item in _items(value)]
            assert kept == [all_items[position] for position in positions if position is not None]
    elif part != value:
        items = oracle.parse(value)
        assert oracle.parse(part) == [items[position] for position in positions if position is not None]
        assert len(positions) < len(items)
    return part
