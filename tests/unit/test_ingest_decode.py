"""Decoding: nothing crashes it, no good reading is lost beside a bad one, no bad one passes."""

import json
import math
import sys
from typing import Any

import pytest

from sensorlog.measurements import DEFAULT_MEASUREMENTS, Measurement
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog.timestamps import TimestampUnit
from sensorlog_ingest.dead_letters import dead_letter
from sensorlog_ingest.decode import MAX_MESSAGE_BYTES, ReadingDecoder
from sensorlog_ingest.readings import Readings
from sensorlog_ingest.rejections import Reason, Rejections
from support.messages import PROTOBUF, FakeMessage, json_message

NOW = 1_700_000_000.0
AHEAD_SECONDS = 86_400
TS = 1_646_409_307
GOOD = {"ts": TS, "sensor_id": 1, "temperature": 30, "cpu": 20}
GOOD_TEXT = json.dumps(GOOD).encode()
ANY_MEASUREMENTS = (Measurement(name="temperature"), Measurement(name="cpu"))


def decoder(measurements: tuple[Measurement, ...] = DEFAULT_MEASUREMENTS, unit: TimestampUnit = "s") -> ReadingDecoder:
    """Return a decoder that lives at NOW."""
    return ReadingDecoder(measurements, unit, AHEAD_SECONDS)


def decode(*messages: FakeMessage, **options: Any) -> tuple[Readings, Rejections]:
    """Decode messages together, as one fetch."""
    return decoder(**options).decode(messages, NOW)


def reasons(rejections: Rejections) -> dict[int, list[Reason]]:
    """Return the reasons by message."""
    return {index: [rejection.reason for rejection in rejected] for index, rejected in rejections.items()}


def rows(readings: Readings) -> list[tuple[Any, ...]]:
    """Return (time_us, sensor_id, values...) of each reading."""
    columns = (readings.time_us, readings.sensor_id, *readings.values)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_seed_message_is_one_reading() -> None:
    """The README's message decodes to its four numbers, ts in microseconds."""
    readings, rejections = decode(FakeMessage(b'[{"ts": 1646409307, "sensor_id": 1, "temperature":30, "cpu":20}]'))
    assert rows(readings) == [(TS * 1_000_000, 1, 30.0, 20.0)]
    assert not rejections


def test_objects_and_arrays_mix_in_one_fetch() -> None:
    """An object, an array and an empty array stand side by side; each row knows its message and position."""
    readings, rejections = decode(json_message(GOOD), json_message([GOOD, GOOD]), json_message([]), json_message(GOOD))
    assert readings.message.tolist() == [0, 1, 1, 3]
    assert readings.position.tolist() == [0, 0, 1, 0]
    assert not rejections


def test_missing_and_null_measurements_are_null() -> None:
    """NaN stands for NULL in the columns."""
    readings, rejections = decode(json_message({"ts": TS, "sensor_id": 1, "temperature": None}))
    assert math.isnan(readings.values[0][0])
    assert math.isnan(readings.values[1][0])
    assert not rejections


@pytest.mark.parametrize(
    ("unit", "ts", "microseconds"),
    [("s", TS, TS * 10**6), ("ms", TS * 10**3 + 1, TS * 10**6 + 1000), ("us", 5, 5), ("ns", 1999, 1)],
)
def test_ts_counts_in_the_pipelines_unit(unit: TimestampUnit, ts: int, microseconds: int) -> None:
    """Every unit becomes microseconds; nanoseconds are rounded down."""
    readings, _ = decode(json_message({"ts": ts, "sensor_id": 1}), unit=unit)
    assert readings.time_us.tolist() == [microseconds]


BAD: list[tuple[bytes | None, Reason]] = [
    (None, Reason.EMPTY_VALUE),
    (b"", Reason.EMPTY_VALUE),
    (b"  ", Reason.NOT_JSON),
    (b"hello", Reason.NOT_JSON),
    (b'{"ts": 1646409307, "sensor_id": 1', Reason.NOT_JSON),
    (b"[" + GOOD_TEXT, Reason.NOT_JSON),
    (b"[" + GOOD_TEXT + b",]", Reason.NOT_JSON),
    (b"[" + GOOD_TEXT + b"] []", Reason.NOT_JSON),
    (b"[" + GOOD_TEXT + b"],[" + GOOD_TEXT + b"]", Reason.NOT_JSON),
    (GOOD_TEXT + b"," + GOOD_TEXT, Reason.NOT_JSON),
    (b"\xef\xbb\xbf" + GOOD_TEXT, Reason.NOT_JSON),
    (b"[" * 100_000, Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "x": ' + b"[" * 100_000, Reason.NOT_JSON),
    (b"[" + GOOD_TEXT + GOOD_TEXT + b"]", Reason.NOT_JSON),
    (GOOD_TEXT + b"\0", Reason.NOT_JSON),
    (b"\xff", Reason.NOT_JSON),
    (b'{"ts": 01, "sensor_id": 1}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "cpu": 1.}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "cpu": .5}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "x": NaN}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "x": "\\ud800"}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1, "x": "line\nbreak"}', Reason.NOT_JSON),
    (b'{"ts": 1, "sensor_id": 1} // comment', Reason.NOT_JSON),
    (b"{'ts': 1, 'sensor_id': 1}", Reason.NOT_JSON),
    (b"5", Reason.WRONG_TYPE),
    (b"NaN", Reason.WRONG_TYPE),
    (b"null", Reason.WRONG_TYPE),
    (b"[[]]", Reason.WRONG_TYPE),
    (b"[[" + GOOD_TEXT + b"]]", Reason.WRONG_TYPE),
    (b'{"sensor_id": 1}', Reason.MISSING_TS),
    (b'{"ts": null, "sensor_id": 1}', Reason.MISSING_TS),
    (b'{"ts": 1}', Reason.MISSING_SENSOR_ID),
    (b'{"ts": 1, "sensor_id": null}', Reason.MISSING_SENSOR_ID),
    (b'{"TS": 1, "sensor_id": 1}', Reason.MISSING_TS),
    (b'{"ts": 1, "ts": null, "sensor_id": 1}', Reason.MISSING_TS),
    (b'{"ts": "1", "ts": 1, "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": 1, "sensor_id": 1, "cpu": [], "cpu": 1}', Reason.WRONG_TYPE),
    (b'{"ts": NaN, "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": 1e0, "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": 1, "sensor_id": 1.5}', Reason.WRONG_TYPE),
    (b'{"ts": 1.0, "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": true, "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": "1", "sensor_id": 1}', Reason.WRONG_TYPE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": "30"}', Reason.WRONG_TYPE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": true}', Reason.WRONG_TYPE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": NaN}', Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": -Infinity}', Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": 1e999}', Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": ' + b"9" * 5000 + b"}", Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 1, "temperature": 1e400}', Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 1, "cpu": Infinity}', Reason.NOT_FINITE),
    (b'{"ts": 1, "sensor_id": 9223372036854775808}', Reason.INTEGER_OVERFLOW),
    (b'{"ts": 1, "sensor_id": -9223372036854775809}', Reason.INTEGER_OVERFLOW),
    (b'{"ts": 18446744073709551617, "sensor_id": 1}', Reason.INTEGER_OVERFLOW),
    (b'{"ts": ' + b"9" * 5000 + b', "sensor_id": 1}', Reason.INTEGER_OVERFLOW),
    (b'{"ts": -1, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
    (b'{"ts": 1646409307000, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
    (b'{"ts": 9223372036854775807, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
    (b'{"ts": 1, "sensor_id": 1, "temperature": 200.1}', Reason.OUT_OF_RANGE),
    (b'{"ts": 1, "sensor_id": 1, "cpu": -0.1}', Reason.OUT_OF_RANGE),
]
"""Values of messages, and why they are rejected."""


@pytest.mark.parametrize(("value", "reason"), BAD)
def test_bad_message_is_rejected_for_its_reason(value: bytes | None, reason: Reason) -> None:
    """Each class of bad input has its own code, and the good messages around it land."""
    good = json_message(GOOD)
    bad = FakeMessage(value)
    readings, rejections = decode(good, bad, good)
    assert reasons(rejections) == {1: [reason]}
    assert readings.message.tolist() == [0, 2]
    assert dead_letter(bad, rejections[1]).value == value


def test_every_reason_has_an_example() -> None:
    """Each code has a test that names it: here, or below for those that a value alone does not bring about."""
    elsewhere = {Reason.TOO_LARGE, Reason.NOT_PROTOBUF, Reason.MISSING_ID, Reason.DATABASE_REJECTED}
    assert {reason for _, reason in BAD} | elsewhere == set(Reason)


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (b'\n{"ts" :\t1,\r\n"sensor_id": 2 } ', (1, 2, None, None)),
        (b'{"\\u0074s": 1, "sensor_\\u0069d": 2, "c\\u0070u": 3}', (1, 2, None, 3.0)),
        (b'{"ts": 1, "ts": 5, "sensor_id": 2, "cpu": 1, "cpu": null}', (5, 2, None, None)),
        (b'{"ts": -0, "sensor_id": -0, "temperature": -0.0}', (0, 0, -0.0, None)),
        (b'{"ts": 1, "sensor_id": 9007199254740993, "cpu": 9007199254740993}', (1, 2**53 + 1, None, 2.0**53)),
        (b'{"ts": 1, "sensor_id": 2, "cpu": 18446744073709551617}', (1, 2, None, 2.0**64)),
        (b'{"ts": 1, "sensor_id": 2, "cpu": 5e-324, "temperature": 1E+2}', (1, 2, 100.0, 5e-324)),
        (b'{"ts": 1, "sensor_id": 2, "cpu": 1e-400}', (1, 2, None, 0.0)),
        (b'{"ts": 1, "sensor_id": 2, "x": 1e400, "y": ' + b"9" * 5000 + b"}", (1, 2, None, None)),
        (b'{"ts": 1, "sensor_id": 2, "": "\\ud83d\\ude00", "x": {"ts": "no"}}', (1, 2, None, None)),
        (b'{"ts": 1, "sensor_id": 2, "x": "latin \xe9, \xff, \xed\xa0\x80"}', (1, 2, None, None)),
        (b'{"ts": 1, "sensor_id": 2, "x": ' + b"[" * 250 + b"]" * 250 + b"}", (1, 2, None, None)),
    ],
)
def test_odd_but_good_reading_lands(value: bytes, row: tuple[int, int, float | None, float | None]) -> None:
    """What JSON allows is no reason to lose a reading: escapes, repeated names, extremes, strange unknown fields."""
    readings, rejections = decode(FakeMessage(value), measurements=ANY_MEASUREMENTS)
    ts, sensor_id, *values = row
    assert not rejections
    assert repr(rows(readings)) == repr([(ts * 10**6, sensor_id, *(math.nan if v is None else v for v in values))])


@pytest.mark.parametrize("opening", [b"[", b'[{"ts":', b'[{"ts":1,"sensor_id":1,"x":', b'{"ts":'])
@pytest.mark.parametrize("bad_end", [b"", b"NaN", b"["])
def test_depth_of_nesting_never_decides_by_the_stack(opening: bytes, bad_end: bytes) -> None:
    """Around Python's limit of recursion one parser still succeeds where the next no longer does: nothing raises."""
    for depth in range(900, sys.getrecursionlimit() + 5):
        value = (
            opening + b"[" * depth + bad_end + b"]" * depth + b"}" * (b"{" in opening) + b"]" * (opening[:1] == b"[")
        )
        message = FakeMessage(value)
        readings, rejections = decode(message)
        assert bool(rejections) == (not len(readings))
        if rejections:
            assert dead_letter(message, rejections[0]).value == value


def test_good_reading_lands_beside_one_nested_too_deeply() -> None:
    """A deep array is taken apart without recursion; brackets and commas in strings are none."""
    deep = b'{"ts":1,"sensor_id":1,"x":' + b"[" * 1_000_000 + b'"]],[\\"]"' + b"]" * 1_000_000 + b"}"
    message = FakeMessage(b" [" + GOOD_TEXT + b" ,\n" + deep + b", " + GOOD_TEXT + b"]\n")
    readings, rejections = decode(message)
    assert readings.position.tolist() == [0, 2]
    assert reasons(rejections) == {0: [Reason.NOT_JSON]}
    assert dead_letter(message, rejections[0]).value == b"[" + deep + b"]"


def test_limits_are_inclusive() -> None:
    """The smallest and the largest accepted values land."""
    latest = int(NOW) + AHEAD_SECONDS
    readings, rejections = decode(
        json_message({"ts": 0, "sensor_id": -(2**63), "temperature": -90, "cpu": 0}),
        json_message({"ts": latest, "sensor_id": 2**63 - 1, "temperature": 200, "cpu": 100}),
    )
    assert len(readings) == 2
    assert not rejections


def test_good_readings_around_a_bad_one_land() -> None:
    """Of one array, the dead letter holds only what was rejected, as it was written."""
    message = FakeMessage(
        b'[{"ts": 1, "sensor_id": 1}, {"ts": 2, "sensor_id": 2, "cpu": NaN},{"ts":3,"sensor_id":3},'
        b' {"ts": 4,  "sensor_id": "4"}, {"ts": 5, "sensor_id": 5, "cpu": 101}]'
    )
    readings, rejections = decode(message)
    assert readings.sensor_id.tolist() == [1, 3]
    assert readings.position.tolist() == [0, 2]
    letter = dead_letter(message, rejections[0])
    assert letter.value == (
        b'[{"ts": 2, "sensor_id": 2, "cpu": NaN},{"ts": 4,  "sensor_id": "4"},{"ts": 5, "sensor_id": 5, "cpu": 101}]'
    )
    assert letter.reason == Reason.NOT_FINITE
    assert letter.detail.splitlines() == [
        "reading 1: not_finite: cpu must be a finite double, got NaN",
        'reading 3: wrong_type: sensor_id must be an integer, got "4"',
        "reading 4: out_of_range: cpu 101.0 is not within 0.0..100.0",
    ]


def test_two_broken_neighbours_do_not_pass_as_one() -> None:
    """Values that would merge when joined, and one that makes up for the count, are three dead letters."""
    left, right = b'{"ts": 1, "sensor_id": 1, "x": [1', b"2]}"
    double = GOOD_TEXT + b"," + GOOD_TEXT
    readings, rejections = decode(FakeMessage(left), FakeMessage(right), FakeMessage(double))
    assert len(readings) == 0
    assert sorted(rejections) == [0, 1, 2]


def test_measurement_names_may_be_python_words() -> None:
    """Columns named like keywords or attributes decode as any other."""
    measurements = tuple(Measurement(name=name) for name in ("class", "__init__", "m0", "from"))
    document = {"ts": 1, "sensor_id": 1, "class": 1, "__init__": 2, "m0": 3, "from": 4}
    readings, rejections = decode(json_message(document), measurements=measurements)
    assert readings.values[:, 0].tolist() == [1, 2, 3, 4]
    assert not rejections


def test_unknown_fields_are_found_in_a_sample() -> None:
    """Undeclared fields are named; broken and huge messages are not looked into."""
    assert decoder().unknown_fields(json_message([{**GOOD, "humidity": 1}])) == {"humidity"}
    assert decoder().unknown_fields(json_message(GOOD)) == set()
    assert decoder().unknown_fields(FakeMessage(b"{")) == set()
    assert decoder().unknown_fields(json_message([[]])) == set()


def test_protobuf_is_chosen_by_its_header() -> None:
    """Declared measurements come from their own field or from the map; absent ones are NULL."""
    measurements = (*ANY_MEASUREMENTS, Measurement(name="humidity"))
    item = SensorData(ts=TS, sensor_id=7, temperature=1.5, measurements={"humidity": 40, "unknown": 1})
    message = FakeMessage(SensorDataList(items=[item]).SerializeToString(), the_headers=PROTOBUF)
    readings, rejections = decode(json_message(GOOD), message, measurements=measurements)
    assert readings.sensor_id.tolist() == [1, 7]
    assert readings.values[0].tolist() == [30, 1.5]
    assert math.isnan(readings.values[1][1])
    assert readings.values[2][1] == 40
    assert not rejections


def test_good_readings_around_a_bad_one_land_in_protobuf_too() -> None:
    """NaN and a missing ts are rejected; the dead letter is protobuf again and holds only those."""
    items = [
        SensorData(ts=TS, sensor_id=1, cpu=math.nan),
        SensorData(ts=TS, sensor_id=2),
        SensorData(sensor_id=3),
        SensorData(ts=TS, sensor_id=4, cpu=101),
    ]
    message = FakeMessage(SensorDataList(items=items).SerializeToString(), the_headers=PROTOBUF)
    readings, rejections = decode(message)
    assert readings.sensor_id.tolist() == [2]
    assert reasons(rejections) == {0: [Reason.NOT_FINITE, Reason.MISSING_TS, Reason.OUT_OF_RANGE]}
    kept = SensorDataList.FromString(dead_letter(message, rejections[0]).value or b"")
    assert [item.sensor_id for item in kept.items] == [1, 3, 4]


@pytest.mark.parametrize("value", [GOOD_TEXT, b"\xff\xff", b"\x10\x01"])
def test_what_is_no_sensor_data_list_is_rejected(value: bytes) -> None:
    """The header is believed: JSON under a protobuf header is a dead letter, and so is a message without readings."""
    readings, rejections = decode(FakeMessage(value, the_headers=PROTOBUF))
    assert len(readings) == 0
    assert reasons(rejections) == {0: [Reason.NOT_PROTOBUF]}


def test_message_above_the_limit_is_rejected() -> None:
    """A message that is too large is not decoded at all; one of just that size is."""
    largest = GOOD_TEXT + b" " * (MAX_MESSAGE_BYTES - len(GOOD_TEXT))
    readings, rejections = decode(json_message(GOOD), FakeMessage(largest), FakeMessage(largest + b" "))
    assert readings.message.tolist() == [0, 1]
    assert reasons(rejections) == {2: [Reason.TOO_LARGE]}


# Peak memory of decoding one message of 32 MiB, above that of the process that holds it (Python 3.11, VmHWM):
# 102 MiB for 479,000 readings of 70 bytes, 147 MiB for 1,459,000 of the shortest, 150 to 250 MiB where one of them is
# bad and the array is taken apart, 280 MiB (320 with the dead letter) where each of 1,017,000 is bad.
def test_ten_mebibytes_in_one_message_decode() -> None:
    """Every reading of a message as large as a broker is commonly allowed to take lands, with its own values."""
    size, count, note = 10 * 2**20, 100_000, "x" * 36
    texts = [f'{{"ts":{i},"sensor_id":{-i},"temperature":{i % 100},"note":"{note}"}}' for i in range(count)]
    value = b"[%b]" % ",".join(texts).encode()
    assert size * 0.9 < len(value) < size
    readings, rejections = decode(FakeMessage(value.ljust(size)))
    assert not rejections
    assert readings.time_us.tolist() == [i * 10**6 for i in range(count)]
    assert readings.sensor_id.tolist() == [-i for i in range(count)]
    assert readings.values[0].tolist() == [i % 100 for i in range(count)]


@pytest.mark.parametrize("bad", [None, 0, 57_123, 99_999])
def test_hundred_thousand_readings_in_one_message_decode(bad: int | None) -> None:
    """All of them land, or all but the one that is bad: which alone is in the dead letter."""
    texts = [b'{"ts":%d,"sensor_id":%d,"cpu":%d}' % (i, i, i % 100) for i in range(100_000)]
    if bad is not None:
        texts[bad] = b'{"ts":1,"sensor_id":1,"cpu":NaN}'
    message = FakeMessage(b"[" + b",".join(texts) + b"]")
    readings, rejections = decode(message)
    assert readings.sensor_id.tolist() == [i for i in range(100_000) if i != bad]
    assert reasons(rejections) == ({} if bad is None else {0: [Reason.NOT_FINITE]})
    if bad is not None:
        assert dead_letter(message, rejections[0]).value == b"[" + texts[bad] + b"]"


@pytest.mark.parametrize("element", [b"1", b"{}", b'"a,b"'])
def test_millions_of_short_elements_are_one_rejection(element: bytes) -> None:
    """What cannot be readings is not taken apart: a rejection for each would take a hundred times the message."""
    message = FakeMessage(b"[%b]" % b",".join([element] * (10 * 2**20 // (len(element) + 1))))
    readings, rejections = decode(message)
    assert len(readings) == 0
    assert reasons(rejections) == {0: [Reason.NOT_JSON]}
    assert dead_letter(message, rejections[0]).value == message.value()


def test_many_shortest_readings_are_taken_apart() -> None:
    """The rule above spares every array that can hold readings: even the shortest ones, beside a bad one."""
    message = FakeMessage(b"[%b,{}]" % b",".join([b'{"ts":1,"sensor_id":1}'] * 150_000))
    readings, rejections = decode(message)
    assert len(readings) == 150_000
    assert dead_letter(message, rejections[0]).value == b"[{}]"
