"""Readings as people hand them in: every shape is understood, every mistake is named with its place."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.measurements import DEFAULT_MEASUREMENTS
from sensorlog_cli.errors import UsageError
from sensorlog_cli.readings import BATCH_BYTES, BATCH_READINGS, Placed, Rules, batches, parse

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}
RULES = Rules("s", DEFAULT_MEASUREMENTS)

readings = st.fixed_dictionaries(
    {"ts": st.integers(0, 1_700_000_000), "sensor_id": st.integers(-(2**63), 2**63 - 1)},
    optional={
        "temperature": st.none() | st.floats(-90, 200),
        "cpu": st.none() | st.integers(0, 100) | st.floats(0, 100),
    },
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def the_readings(text: str) -> list[Any]:
    """Return what `parse` finds in `text`, without the places."""
    return [each.reading for each in parse(text, "input")]


@given(st.lists(readings, min_size=1))
def test_array_lines_and_lines_of_arrays_say_the_same(items: list[dict[str, Any]]) -> None:
    """The three shapes of input are one language."""
    assert the_readings(json.dumps(items)) == items
    assert the_readings("\n".join(map(json.dumps, items))) == items
    assert the_readings("\n\n".join(json.dumps([item]) for item in items) + "\n") == items


@given(st.lists(readings, min_size=1))
def test_good_readings_pass_the_check(items: list[dict[str, Any]]) -> None:
    """What the contract allows is never refused."""
    for each in parse(json.dumps(items), "input"):
        RULES.check(each)


@given(st.text())
def test_any_text_is_readings_or_a_usage_error(text: str) -> None:
    """No input gets past the parser as anything but dicts, or out of it as a foreign error."""
    try:
        found = the_readings(text)
    except UsageError:
        found = []
    assert all(isinstance(reading, dict) for reading in found)


@given(st.dictionaries(st.sampled_from(["ts", "sensor_id", "temperature", "cpu"]), json_values))
def test_checking_any_object_names_a_field_or_passes(reading: dict[str, Any]) -> None:
    """A problem starts with the name of its field, whatever the value is."""
    for problem in RULES.problems(reading):
        assert problem.split(":")[0] in {"ts", "sensor_id", "temperature", "cpu"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ts": "now"}, 'reading 1: ts: must be an integer in s, not "now"'),
        ({"ts": True}, "ts: must be an integer"),
        ({"ts": 1646409307000}, "a wrong unit?"),
        ({"ts": None}, "ts: must be an integer in s, not nothing"),
        ({"sensor_id": 2**63}, "sensor_id: must be an integer of 64 bits"),
        ({"sensor_id": 1.0}, "sensor_id"),
        ({"temperature": 201}, "temperature: must be at most 200, not 201"),
        ({"cpu": -1}, "cpu: must be at least 0, not -1"),
        ({"cpu": "20"}, "cpu: must be a finite number or null"),
        ({"cpu": float("nan")}, "cpu: must be a finite number or null, not NaN"),
        ({"cpu": 10**400}, "cpu: must be a finite number"),
        ({"tempratur": 3}, "tempratur: not a measurement of this pipeline (temperature, cpu)"),
    ],
)
def test_a_mistake_is_named_with_place_field_and_what_is_accepted(change: dict[str, Any], said: str) -> None:
    """The message lets a person find and mend the mistake."""
    with pytest.raises(UsageError) as caught:
        RULES.check(Placed("reading 1", {**SEED, **change}))
    assert said in str(caught.value)


def test_an_unknown_field_passes_when_allowed_or_when_nothing_is_declared() -> None:
    """--allow-unknown sends it; without a resource nobody knows which fields are declared."""
    reading = {**SEED, "humidity": 3}
    assert not list(Rules("s", DEFAULT_MEASUREMENTS, allow_unknown=True).problems(reading))
    assert not list(Rules("s").problems(reading))


def test_the_accepted_window_is_in_the_pipelines_unit() -> None:
    """The same moment is right in its own unit only."""
    now = int(time.time())
    assert not list(Rules("ms").problems({**SEED, "ts": now * 1000}))
    assert list(Rules("s").problems({**SEED, "ts": now * 1000}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "input, line 1, column 1: not JSON"),
        ('[{"ts": x}]', "input, line 1, column 9: not JSON"),
        ('{"ts": 1}\n{"ts": }', "input, line 2, column 8: not JSON"),
        ('{"ts": 1}\n[{"ts": 1}, 7]', "line 2, reading 2: must be an object"),
        ("[]", "input: no readings in it"),
        ("[1]", "reading 1: must be an object"),
    ],
)
def test_what_is_not_readings_is_refused_with_its_place(text: str, said: str) -> None:
    """Line and column, or which element."""
    with pytest.raises(UsageError) as caught:
        parse(text, "input")
    assert said in str(caught.value)


@given(st.lists(readings))
def test_batches_hold_every_reading_once_and_in_order(items: list[dict[str, Any]]) -> None:
    """Nothing is lost or doubled by putting readings into messages."""
    made = list(batches([Placed(f"reading {n}", item) for n, item in enumerate(items)], "topic"))
    assert [reading for batch in made for reading in json.loads(batch.record.value)] == items
    assert sum(batch.count for batch in made) == len(items)


def test_batches_close_on_count_and_on_size() -> None:
    """A message stays far below what brokers accept, and says which readings it holds."""
    many = list(batches([Placed(f"line {n}", SEED) for n in range(BATCH_READINGS + 1)], "topic"))
    assert [str(batch) for batch in many] == [f"line 0 to line {BATCH_READINGS - 1}", f"line {BATCH_READINGS}"]
    wide = {"ts": 1, "sensor_id": 1, **{f"m{n}": 1.0 for n in range(2000)}}
    assert all(
        len(batch.record.value) <= BATCH_BYTES + 1000 for batch in batches([Placed("line 1", wide)] * 50, "topic")
    )
