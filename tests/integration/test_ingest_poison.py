"""Messages that cannot be stored become dead letters, and nothing around them is lost or held up."""

import json

import pytest

from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.waiting import wait_for_value

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 30


def arrive(pipeline: Pipeline, *, readings: int, dead_letters: int) -> None:
    """Wait until so many readings and dead letters are stored."""
    wait_for_value(
        lambda: (pipeline.count(), len(pipeline.dead_letters())),
        (readings, dead_letters),
        deadline=ARRIVAL_SECONDS,
        what="readings and dead letters",
    )


def test_five_malformed_messages_among_10000_good_ones(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """10,000 rows and 5 dead letters with the right reasons."""
    pipeline = make_pipeline(partitions=3)
    bad: dict[int, bytes | None] = {
        1000: b'{"ts": 1646409307, "temperature": 1}',
        3000: b'{"ts": "yesterday", "sensor_id": 1}',
        5000: b"[{",
        7000: b'{"ts": 1646409307, "sensor_id": 1, "temperature": NaN}',
        9000: None,
    }
    values: list[object] = []
    for number in range(10_000):
        values.append({"ts": SEED_TS + number, "sensor_id": 1, "temperature": 20})
        if number in bad:
            values.append(bad[number])
    start_ingest(pipeline)
    pipeline.produce(values)
    arrive(pipeline, readings=10_000, dead_letters=5)
    assert pipeline.counts() == (10_000, 10_000)
    stored = {reason: value for reason, _, value in pipeline.dead_letters()}
    assert stored == {
        "missing_sensor_id": bad[1000],
        "wrong_type": bad[3000],
        "not_json": bad[5000],
        "not_finite": bad[7000],
        "empty_value": None,
    }


def test_dead_letter_can_be_sent_again(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Its value holds only what was rejected: corrected and sent again, it doubles nothing."""
    start_ingest(pipeline)
    good = [{"ts": SEED_TS + number, "sensor_id": 1} for number in range(3)]
    pipeline.produce([[*good, {"ts": (SEED_TS + 3) * 1000, "sensor_id": 1}]])
    arrive(pipeline, readings=3, dead_letters=1)
    ((reason, detail, value),) = pipeline.dead_letters()
    assert reason == "ts_out_of_window"
    assert detail.startswith("reading 3: ts_out_of_window: ts 1646409310000 is not within 0..")
    pipeline.produce([(value or b"").replace(b"000,", b",")])
    arrive(pipeline, readings=4, dead_letters=1)
    assert pipeline.counts() == (4, 4)


def test_key_and_headers_are_kept(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Whatever bytes a producer put there: text as text, the rest in base64."""
    start_ingest(pipeline)
    pipeline.produce(
        [b"broken\0"],
        key=b"\0\xff",
        headers=[("trace", b"abc"), ("raw", b"\xff\xfe"), ("nul", b"a\0b"), ("none", None), ("trace", b"again")],
    )
    arrive(pipeline, readings=0, dead_letters=1)
    ((key, value, headers),) = pipeline.query("SELECT key, value, headers FROM dead_letters")
    assert (key, value) == (b"\0\xff", b"broken\0")
    assert headers == [
        {"key": "trace", "value": "abc"},
        {"key": "raw", "base64": "//4="},
        {"key": "nul", "base64": "YQBi"},
        {"key": "none", "value": None},
        {"key": "trace", "value": "again"},
    ]


def test_bad_sensor_is_a_dead_letter(pipeline: Pipeline, start_ingest: StartService) -> None:
    """The topic of sensors has the same rules; NUL in a text is found before PostgreSQL refuses it."""
    start_ingest(pipeline)
    pipeline.announce([{"id": 1, "type": "a\0"}, {"id": "2"}, {"type": "a"}, b"", {"id": 3, "type": "ok"}])
    arrive(pipeline, readings=0, dead_letters=4)
    assert [reason for reason, _, _ in pipeline.dead_letters()] == [
        "wrong_type",
        "wrong_type",
        "missing_id",
        "empty_value",
    ]
    assert pipeline.query("SELECT id FROM sensors") == [(3,)]


def test_rows_that_the_database_refuses_stand_alone(pipeline: Pipeline, start_ingest: StartService) -> None:
    """A constraint of the user's own is found by halving: the row is a dead letter, the thousands around it land."""
    pipeline.query("ALTER TABLE sensor_data ADD CHECK (temperature <> 13)")
    pipeline.query("ALTER TABLE sensors ADD CHECK (type <> 'forbidden')")
    start_ingest(pipeline)
    messages = [
        [{"ts": SEED_TS + number * 10 + i, "sensor_id": i, "temperature": 20} for i in range(10)]
        for number in range(1000)
    ]
    messages[100][3]["temperature"] = messages[100][7]["temperature"] = messages[999][0]["temperature"] = 13
    pipeline.produce(messages)
    pipeline.announce([{"id": 1, "type": "allowed"}, {"id": 2, "type": "forbidden"}])
    arrive(pipeline, readings=9_997, dead_letters=3)
    rejected = [(reason, json.loads(value or b"")) for reason, _, value in pipeline.dead_letters()]
    assert sorted(rejected, key=str) == [
        ("database_rejected", [messages[100][3], messages[100][7]]),
        ("database_rejected", [messages[999][0]]),
        ("database_rejected", {"id": 2, "type": "forbidden"}),
    ]
    assert pipeline.query("SELECT id FROM sensors WHERE updated_at > '-infinity'") == [(1,)]
    assert all("SQLSTATE 23514" in detail for _, detail, _ in pipeline.dead_letters())
