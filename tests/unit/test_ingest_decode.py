"""Decoding: nothing crashes it, no good reading is lost beside a bad one, no bad one passes."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensorlog.measurements import DEFAULT_MEASUREMENTS, Measurement
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog.timestamps import TimestampUnit
from sensorlog_ingest.dead_letters import dead_letter
from sensorlog_ingest.decode import ReadingDecoder
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


@pytest.mark.parametrize(
    ("value", "reason"),
    [
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
        (b"5", Reason.WRONG_TYPE),
        (b"null", Reason.WRONG_TYPE),
        (b"[[]]", Reason.WRONG_TYPE),
        (b"[[" + GOOD_TEXT + b"]]", Reason.WRONG_TYPE),
        (b'{"sensor_id": 1}', Reason.MISSING_TS),
        (b'{"ts": null, "sensor_id": 1}', Reason.MISSING_TS),
        (b'{"ts": 1}', Reason.MISSING_SENSOR_ID),
        (b'{"ts": 1.0, "sensor_id": 1}', Reason.WRONG_TYPE),
        (b'{"ts": true, "sensor_id": 1}', Reason.WRONG_TYPE),
        (b'{"ts": "1", "sensor_id": 1}', Reason.WRONG_TYPE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": "30"}', Reason.WRONG_TYPE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": true}', Reason.WRONG_TYPE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": NaN}', Reason.NOT_FINITE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": -Infinity}', Reason.NOT_FINITE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": 1e999}', Reason.NOT_FINITE),
        (b'{"ts": 1, "sensor_id": 1, "temperature": ' + b"9" * 5000 + b"}", Reason.NOT_FINITE),
        (b'{"ts": 1, "sensor_id": 9223372036854775808}', Reason.INTEGER_OVERFLOW),
        (b'{"ts": ' + b"9" * 5000 + b', "sensor_id": 1}', Reason.INTEGER_OVERFLOW),
        (b'{"ts": -1, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
        (b'{"ts": 1646409307000, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
        (b'{"ts": 9223372036854775807, "sensor_id": 1}', Reason.TS_OUT_OF_WINDOW),
        (b'{"ts": 1, "sensor_id": 1, "temperature": 200.1}', Reason.OUT_OF_RANGE),
        (b'{"ts": 1, "sensor_id": 1, "cpu": -0.1}', Reason.OUT_OF_RANGE),
    ],
)
def test_bad_message_is_rejected_for_its_reason(value: bytes | None, reason: Reason) -> None:
    """Each class of bad input has its own code, and the good messages around it land."""
    good = json_message(GOOD)
    bad = FakeMessage(value)
    readings, rejections = decode(good, bad, good)
    assert reasons(rejections) == {1: [reason]}
    assert readings.message.tolist() == [0, 2]
    assert dead_letter(bad, rejections[1]).value == value


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


def test_message_above_the_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is too large is not decoded at all."""
    monkeypatch.setattr("sensorlog_ingest.decode.MAX_MESSAGE_BYTES", 100)
    readings, rejections = decode(json_message(GOOD), json_message([GOOD] * 10))
    assert len(readings) == 1
    assert reasons(rejections) == {1: [Reason.TOO_LARGE]}


# Properties

int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
unknown = st.dictionaries(st.sampled_from(["x", "y"]), st.recursive(st.none() | st.text(), st.lists), max_size=1)
good_readings = st.builds(
    lambda ts, sensor, values, more: {**more, "ts": ts, "sensor_id": sensor, **values},
    st.integers(0, int(NOW)),
    int64,
    st.dictionaries(st.sampled_from(["temperature", "cpu"]), st.none() | finite | int64),
    unknown,
)
good_values = st.builds(
    lambda document, ascii_only: json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"),
    good_readings | st.lists(good_readings, max_size=3),
    st.booleans(),
)
pieces = st.sampled_from(
    [
        *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"null", b"1", b"NaN", b" ", b"\n", b"\\", b"\xff", b"123456789"),
        *(b'"ts":1', b'"sensor_id":1', b'"x":', b'"x":[', GOOD_TEXT, b"[" + GOOD_TEXT + b"]"),
    ]
)
assembled = st.lists(pieces, max_size=8).map(b"".join)


@st.composite
def cut_documents(draw: st.DrawFn) -> list[bytes]:
    """Two or three values that would be one good value if they were joined by commas."""
    value = draw(good_values)
    parts = value.split(b",")
    at = draw(st.integers(0, len(parts)))
    return [b",".join(parts[:at]), b",".join(parts[at:])]


fetches = st.lists(
    st.one_of(good_values.map(lambda v: [v]), assembled.map(lambda v: [v]), cut_documents()), min_size=1, max_size=6
).map(lambda groups: [value for group in groups for value in group])


@given(fetches)
@example([b'{"ts":1,"sensor_id":1,"x":"', b'"}', GOOD_TEXT + b",1," + GOOD_TEXT])
def test_joined_decoding_equals_decoding_one_by_one(values: list[bytes]) -> None:
    """Where a fetch decodes as one document, each of its values decodes by itself, to the same."""
    subject = decoder(ANY_MEASUREMENTS)
    joined = subject.decode_joined(values)
    if joined is not None:
        assert repr(joined) == repr([subject._document.decode(value) for value in values])


@given(st.lists(good_values, min_size=1, max_size=5))
def test_good_values_take_the_fast_path(values: list[bytes]) -> None:
    """Good messages are decoded together: otherwise the test above would prove nothing."""
    assert decoder(ANY_MEASUREMENTS).decode_joined(values) is not None


@given(st.lists(st.binary(max_size=40) | assembled, max_size=4), st.booleans())
def test_no_input_crashes_the_decoder(values: list[bytes], is_protobuf: bool) -> None:  # noqa: FBT001
    """Whatever comes is a reading or a dead letter with a value that came in."""
    messages = [FakeMessage(value, the_headers=PROTOBUF if is_protobuf else ()) for value in values]
    readings, rejections = decode(*messages)
    assert set(rejections) | set(readings.message.tolist()) <= set(range(len(values)))
    for index, rejected in rejections.items():
        assert dead_letter(messages[index], rejected).value is not None


bad_texts = st.sampled_from(
    [
        *(b"{}", b"[]", b"1", b'"a"', b'{"ts": 1}', b'{"ts": -5, "sensor_id": 1}'),
        *(b'{"ts": 1, "sensor_id": 1, "cpu": NaN}', b'{"ts": 1, "sensor_id": 1, "cpu": 1e999}'),
        b'{"ts": 1, "sensor_id": 99999999999999999999}',
    ]
)


@given(st.lists(good_readings.map(lambda r: json.dumps(r).encode()) | bad_texts, min_size=2, max_size=6))
def test_array_is_parted_into_good_and_rejected(texts: list[bytes]) -> None:
    """Every reading of an array lands or is in the dead letter, never both and never neither."""
    message = FakeMessage(b"[" + b", ".join(texts) + b"]")
    readings, rejections = decode(message, measurements=ANY_MEASUREMENTS)
    landed = set(readings.position.tolist())
    rejected = {rejection.position for rejection in rejections.get(0, [])}
    assert landed | rejected == set(range(len(texts)))
    assert not landed & rejected
    if landed and rejected:
        value = dead_letter(message, rejections[0]).value
        assert value == b"[" + b",".join(text for at, text in enumerate(texts) if at in rejected) + b"]"
