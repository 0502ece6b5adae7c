"""Decoding, for every input: what lands is what the oracle calls good, whatever stands beside it.

The oracle (tests/fuzz/oracle.py) states the rules once more. `make fuzz` drives the same checks by coverage.
"""

import json
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz import targets
from sensorlog.measurements import Measurement
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog_ingest.decode import ReadingDecoder
from support.messages import PROTOBUF, FakeMessage

MEASUREMENTS = (Measurement(name="temperature"), Measurement(name="cpu"))
GOOD_TEXT = b'{"ts":1646409307,"sensor_id":1,"temperature":30,"cpu":20}'
ARRAY = b"[" + GOOD_TEXT + b"]"

patient = settings(deadline=None)  # a loaded machine is no failure

int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
unknown = st.dictionaries(st.sampled_from(["x", "y"]), st.recursive(st.none() | st.text(), st.lists), max_size=1)
good_readings = st.builds(
    lambda ts, sensor, values, more: {**more, "ts": ts, "sensor_id": sensor, **values},
    st.integers(0, targets.NOW) | st.just(targets.NOW + targets.AHEAD_SECONDS),
    int64,
    st.dictionaries(st.sampled_from(["temperature", "cpu"]), st.none() | finite | int64),
    unknown,
)
good_values = st.builds(
    lambda document, ascii_only: json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"),
    good_readings | st.lists(good_readings, max_size=3),
    st.booleans(),
)

names = st.sampled_from([b'"ts"', b'"\\u0074s"', b'"sensor_id"', b'"temperature"', b'"cpu"', b'"x"', b'"\xff"'])
latest = targets.NOW + targets.AHEAD_SECONDS
numbers = st.one_of(
    st.sampled_from([b"%d" % edge for at in (0, latest, latest * 10**3, latest * 10**9) for edge in (at, at + 1)]),
    st.integers(-(10**25), 10**25).map(lambda number: b"%d" % number),
    st.floats().map(lambda number: json.dumps(number).encode()),
    st.sampled_from([b"-0", b"-0.0", b"1.0", b"1e400", b"-1e400", b"1e-400", b"9" * 400, b"01", b"1.", b"NaN"]),
    st.sampled_from([b"9007199254740993", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"]),
)
leaves = numbers | st.sampled_from(
    [b"null", b"true", b'"1"', b"{}", b"[]", b"[[1,[]]]", b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\n"']
)
odd_readings = st.lists(st.tuples(names, leaves), max_size=5).map(
    lambda fields: b"{%b}" % b", ".join(b"%b:%b" % field for field in fields)
)
"""Objects of JSON, or nearly: declared fields in any form, several times or not at all."""

mixed_arrays = st.lists(good_readings.map(lambda r: json.dumps(r).encode()) | odd_readings | leaves, max_size=5).map(
    lambda texts: b"[%b]" % b" ,".join(texts)
)
pieces = st.sampled_from(
    [
        *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"null", b"1", b"NaN", b" ", b"\n", b"\\", b"\xff", b"123456789"),
        *(
            b'"ts":1',
            b'"sensor_id":1',
            b'"x":',
            b'"x":[',
            b"\xef\xbb\xbf",
            b"\0",
            GOOD_TEXT,
            ARRAY,
            ARRAY + b"," + ARRAY,
        ),
    ]
)
assembled = st.lists(pieces, max_size=8).map(b"".join)


@st.composite
def cut_documents(draw: st.DrawFn) -> list[bytes]:
    """Values that would be one good value if they were joined by commas, which are taken out where they were cut."""
    value = draw(good_values)
    commas = [at for at, byte in enumerate(value) if byte == ord(",")]
    if not commas:
        return [value]
    cuts = sorted(draw(st.sets(st.sampled_from(commas), min_size=1, max_size=3)))
    return [value[left + 1 : right] for left, right in zip([-1, *cuts], [*cuts, len(value)], strict=True)]


@st.composite
def halves(draw: st.DrawFn) -> list[bytes]:
    """Return a good value that is cut in two anywhere: within a string, an escape, a character of UTF-8."""
    value = draw(good_values)
    at = draw(st.integers(0, len(value)))
    return [value[:at], value[at:]]


groups = st.one_of(
    st.one_of(good_values, odd_readings, mixed_arrays, assembled, st.binary(max_size=20)).map(lambda value: [value]),
    cut_documents(),
    halves(),
)
fetches = st.lists(groups, min_size=1, max_size=5).map(lambda drawn: [value for group in drawn for value in group])
pipelines = st.sampled_from(range(len(targets.PIPELINES)))


def messages(values: Sequence[bytes]) -> list[FakeMessage]:
    """Return messages of JSON."""
    return [FakeMessage(value) for value in values]


@patient
@given(fetches, pipelines)
@example([b'{"ts":1,"sensor_id":1,"x":[1', b"2]}", GOOD_TEXT + b"," + GOOD_TEXT], 0)
@example([b'{"ts":1,"sensor_id":1,"x":"', b'"}', GOOD_TEXT + b",1," + GOOD_TEXT], 0)
@example([ARRAY[:-1], ARRAY[1:], ARRAY + b"," + ARRAY], 0)
@example([ARRAY + b"," + ARRAY, b"", GOOD_TEXT], 0)
@example([b'{"ts":1,"sensor_id":1,"x":"\xc3', b'\xa9"}', GOOD_TEXT], 0)
@example([b" ", GOOD_TEXT + b"," + GOOD_TEXT], 0)
@example([b"]", b"["], 0)
def test_each_message_is_judged_by_itself(values: list[bytes], pipeline: int) -> None:
    """Exactly the good readings land, with their values, and the rest is rejected for its reason.

    That holds alone and among any neighbours, and what is kept of the rejected holds no good reading.
    """
    targets.check_readings(messages(values), pipeline)


@settings(deadline=None, max_examples=50)
@given(st.lists(good_values, max_size=3), cut_documents() | halves(), st.lists(good_values, max_size=3))
def test_good_neighbours_never_mend_a_broken_message(
    before: list[bytes], broken: list[bytes], after: list[bytes]
) -> None:
    """Pieces of a good message stay what each is by itself, with so many good values that the fast path is near."""
    targets.check_readings(messages([*before, *broken, *after]), 1)


@patient
@given(fetches)
def test_joined_decoding_equals_decoding_one_by_one(values: list[bytes]) -> None:
    """Where a fetch decodes as one document, each of its values decodes by itself, to the same."""
    subject = ReadingDecoder(MEASUREMENTS, "s", targets.AHEAD_SECONDS)
    joined = subject.decode_joined(values)
    if joined is not None:
        assert repr(joined) == repr([subject._document.decode(value) for value in values])


@patient
@given(st.lists(good_values, min_size=1, max_size=5))
def test_good_values_take_the_fast_path(values: list[bytes]) -> None:
    """Good messages are decoded together: otherwise the tests above would prove little about joining."""
    assert ReadingDecoder(MEASUREMENTS, "s", targets.AHEAD_SECONDS).decode_joined(values) is not None


sensor_data = st.builds(
    SensorData,
    ts=st.integers(-2, 2) | int64,
    sensor_id=int64,
    temperature=st.none() | st.floats(),
    cpu=st.none() | st.floats(0, 120),
    measurements=st.dictionaries(st.sampled_from(["humidity", "cpu", "x"]), st.floats(), max_size=2),
)


@patient
@given(st.lists(sensor_data, max_size=4), st.binary(max_size=3), st.integers(0, 3), pipelines)
def test_each_reading_of_protobuf_is_judged_by_itself(
    items: list[SensorData], more: bytes, cut: int, pipeline: int
) -> None:
    """Exactly the good readings land from a list that is whole, cut off, or followed by something."""
    value = SensorDataList(items=items).SerializeToString() + more
    targets.check_readings([FakeMessage(value[: len(value) - cut], the_headers=PROTOBUF)], pipeline)


texts = st.sampled_from([b"null", b'"a"', b'"\\u0000"', b'"\\udc00"', b'"\xff"', b'"\xc3\xa9"', b"1", b"NaN", b"[]"])
odd_sensors = st.lists(
    st.tuples(st.just(b'"id"'), numbers | texts)
    | st.tuples(st.sampled_from([b'"type"', b'"location"', b'"x"']), texts),
    max_size=4,
).map(lambda fields: b"{%b}" % b",".join(b"%b:%b" % field for field in fields))
sensor_values = (
    odd_sensors | st.lists(odd_sensors | leaves, max_size=4).map(lambda s: b"[%b]" % b",".join(s)) | assembled
)


@patient
@given(st.lists(sensor_values, max_size=4))
def test_each_sensor_is_judged_by_itself(values: list[bytes]) -> None:
    """Exactly the good sensors come out, and the rest is rejected for its reason."""
    targets.sensors(targets.SEPARATOR.join(values))


@patient
@given(st.binary(max_size=60), st.sampled_from(sorted(targets.TARGETS)))
def test_no_input_crashes(data: bytes, target: str) -> None:
    """Any bytes are a reading, a sensor or a dead letter, for each of the fuzzers' targets."""
    targets.TARGETS[target](data)
