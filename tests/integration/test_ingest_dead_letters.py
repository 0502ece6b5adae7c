"""Dead letters are replayed exactly once: whatever ends a replay, each letter is still there or its readings are."""

import dataclasses
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sensorlog.letters import (
    Answer,
    Contents,
    Envelope,
    Failed,
    LetterId,
    Piece,
    Progress,
    Refused,
    Request,
    Selection,
    Summary,
    join,
    read_answer,
)
from sensorlog.measurements import Measurement
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog_cli.app import app
from sensorlog_cli.commands import dead_letters
from sensorlog_cli.letters import answers
from support.database import Database
from support.letters import REPLAY_SECONDS, ask, program, replay
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.proxy import CommitLoss, CommitProxy
from support.streams import flowing, unique_readings
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 60

NARROW = (Measurement(name="temperature", min=-90, max=50), Measurement(name="cpu"))
WIDE = (Measurement(name="temperature", min=-90, max=200), Measurement(name="cpu"))


def letters(pipeline: Pipeline) -> list[LetterId]:
    """Return which letters there are."""
    rows = pipeline.query("SELECT topic, partition, message_offset FROM dead_letters ORDER BY 1, 2, 3")
    return [LetterId(*row) for row in rows]


def with_measurements(pipeline: Pipeline, measurements: tuple[Measurement, ...]) -> Pipeline:
    """Return the pipeline after its resource was changed; processes that start from now on read it."""
    config = pipeline.config.model_copy(update={"measurements": measurements})
    changed = dataclasses.replace(pipeline, config=config)
    changed.write_files(pipeline.database.uri)
    return changed


@pytest.fixture
def make_rejected(make_pipeline: MakePipeline, start_ingest: StartService) -> Any:
    """Return a function that has ingest reject messages of readings, and then widens the limits; ingest is stopped."""

    def make(messages: Sequence[Any], *, stored: int = 0, **sent: Any) -> Pipeline:
        pipeline = make_pipeline(measurements=NARROW, partitions=2)
        ingest = start_ingest(pipeline)
        pipeline.produce(messages, **sent)
        wait_for_value(
            lambda: (pipeline.count(), len(letters(pipeline))),
            (stored, len(messages)),
            deadline=ARRIVAL_SECONDS,
            what="readings and dead letters",
        )
        assert ingest.stop() == 0
        return with_measurements(pipeline, WIDE)

    return make


def too_hot(count: int, *, per_message: int = 2) -> list[list[dict[str, Any]]]:
    """Return messages of different readings that are all outside of the narrow limits."""
    return [[{**reading, "temperature": 100} for reading in m] for m in unique_readings(count, per_message=per_message)]


def test_letters_land_once_the_limits_are_wide_enough(make_rejected: Any) -> None:
    """Their readings become rows with their own values, and the letters are gone."""
    pipeline = make_rejected(too_hot(3000))
    done, returned = replay(pipeline)
    assert (done.letters, done.readings, returned) == (1500, 3000, [])
    assert pipeline.counts() == (3000, 3000)
    assert letters(pipeline) == []
    assert pipeline.query("SELECT DISTINCT temperature FROM sensor_data") == [(100.0,)]
    assert replay(pipeline) == (Progress(), [])


def test_what_is_still_bad_of_an_array_goes_back(make_rejected: Any) -> None:
    """With only that in its value, a new reason and detail, and the time, key and headers that it had."""
    hot = {"ts": SEED_TS, "sensor_id": 1, "temperature": 100}
    broken = {"ts": "yesterday", "sensor_id": 2}
    pipeline = make_rejected(
        [
            [
                hot,
                {**hot, "sensor_id": 3, "temperature": 999},
                broken,
                {**hot, "sensor_id": 4},
                {**hot, "sensor_id": 5, "temperature": 1},
            ]
        ],
        stored=1,
        key=b"\0\xff",
        headers=[("trace", b"abc"), ("raw", b"\xff")],
    )
    kept = "SELECT topic, partition, message_offset, received_at, key, headers FROM dead_letters"
    before = pipeline.query(kept)
    done, (returned,) = replay(pipeline)
    assert (done.letters, done.readings) == (1, 2)
    assert pipeline.counts() == (3, 3)
    assert pipeline.query(kept) == before
    ((reason, detail, value),) = pipeline.dead_letters()
    assert value == b'[{"ts": 1646409307, "sensor_id": 3, "temperature": 999},{"ts": "yesterday", "sensor_id": 2}]'
    assert (reason, detail) == (returned.reason, returned.detail)
    assert sorted(detail.splitlines()) == [
        "reading 0: out_of_range: temperature 999.0 is not within -90.0..200.0",
        'reading 1: wrong_type: ts must be an integer, got "yesterday"',
    ]


def test_rows_that_the_database_refuses_go_back_alone(make_rejected: Any) -> None:
    """A constraint of the user's own is found by halving, as in ingest."""
    messages = too_hot(3000, per_message=3)
    messages[500][1]["temperature"] = 113
    pipeline = make_rejected(messages)
    pipeline.query("ALTER TABLE sensor_data ADD CHECK (temperature <> 113)")
    done, (returned,) = replay(pipeline)
    assert (done.letters, done.readings, returned.reason) == (1000, 2999, "database_rejected")
    assert pipeline.counts() == (2999, 2999)
    ((_, detail, value),) = pipeline.dead_letters()
    assert b"113" in (value or b"")
    assert "SQLSTATE 23514" in detail


def all_there(pipeline: Pipeline, total: int) -> bool:
    """Return whether the readings that are stored, and the two in each letter, are `total` at this moment."""
    statement = "SELECT (SELECT count(*) FROM sensor_data) + 2 * (SELECT count(*) FROM dead_letters)"
    return pipeline.query(statement) == [(total,)]


def wait_for_transaction(pipeline: Pipeline, process: "subprocess.Popen[str]") -> None:
    """Wait until a replay is in mid-transaction, or has ended."""
    in_transaction = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sensorlog-dead-letters'"
        " AND (state = 'idle in transaction' OR state = 'active' AND query LIKE 'COPY%')"
    )
    deadline = time.monotonic() + REPLAY_SECONDS
    with pipeline.database.connect() as connection:
        while not connection.execute(in_transaction).fetchone() and process.poll() is None:
            assert time.monotonic() < deadline  # looks as often as it can: a transaction takes milliseconds


def test_kill_9_in_mid_replay_again_and_again(make_rejected: Any) -> None:
    """At every moment each reading is a row or in a letter; the last replay finds the rest, and nothing twice."""
    total = 40_000
    pipeline = make_rejected(too_hot(total))
    killed = 0
    while len(letters(pipeline)) > 4000:
        with program(pipeline, Request(action="replay")) as process:
            assert process.stdout is not None
            assert isinstance(read_answer(process.stdout.readline()), Progress)
            wait_for_transaction(pipeline, process)
            process.kill()
        killed += process.wait(REPLAY_SECONDS) == -9
        assert all_there(pipeline, total)
    assert killed >= 2
    assert 0 < pipeline.count() < total
    replay(pipeline)
    assert pipeline.counts() == (total, total)
    assert letters(pipeline) == []


def wait_for_end(pipeline: Pipeline) -> None:
    """Wait until the database has ended the sessions of replays that are gone."""
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sensorlog-dead-letters'"
    wait_for_value(lambda: pipeline.database.execute(sessions), [(0,)], deadline=20, what="sessions of replays")


@pytest.mark.parametrize("loss", CommitLoss)
def test_connection_lost_at_commit(loss: CommitLoss, make_rejected: Any, database: Database) -> None:
    """Nobody knows whether it happened, and it does not matter: a repetition finds what is left."""
    pipeline = make_rejected(too_hot(6000))  # three transactions
    with CommitProxy("127.0.0.1", database.port) as proxy:
        pipeline.write_files(database.uri_at("127.0.0.1", proxy.port))
        for attempt in (1, 2):
            lost = proxy.plan_loss(loss)
            (failed,) = ask(pipeline, Request(action="replay"))
            assert isinstance(failed, Failed)
            assert lost.is_set()
            wait_for_end(pipeline)
            assert all_there(pipeline, 6000)
            assert pipeline.count() == (0 if loss is CommitLoss.REQUEST else attempt * 2000)
        replay(pipeline)
    assert pipeline.counts() == (6000, 6000)
    assert letters(pipeline) == []


@pytest.mark.parametrize("ending", ["session cut", "process killed"])
def test_nothing_of_a_transaction_that_was_cut_remains(ending: str, make_rejected: Any) -> None:
    """Letters are out and readings on their way when it ends: all letters are back, and no reading is there."""
    pipeline = make_rejected(too_hot(1000))
    with pipeline.locked("sensor_data"), program(pipeline, Request(action="replay")) as process:
        wait_until(
            lambda: pipeline.blocked_sessions("sensor_data"), deadline=20, what="the replay to wait for its lock"
        )
        if ending == "session cut":
            assert pipeline.database.cut_connections("sensorlog-dead-letters") == 1
            assert process.stdout is not None
            failed = read_answer(process.stdout.readline())
            assert isinstance(failed, Failed)
            assert process.wait(REPLAY_SECONDS) == 1
        else:
            process.kill()
    wait_for_value(lambda: len(letters(pipeline)), 500, deadline=20, what="letters")
    wait_for_end(pipeline)
    assert (pipeline.count(), len(letters(pipeline))) == (0, 500)
    replay(pipeline)
    assert pipeline.counts() == (1000, 1000)


def test_two_replays_at_the_same_time_double_nothing(make_rejected: Any) -> None:
    """Each letter is taken by one of them; together they took them all."""
    total = 20_000
    pipeline = make_rejected(too_hot(total))
    with ThreadPoolExecutor() as pool:
        # Both are let go at once, when their first transactions wait for the same letters.
        with pipeline.locked("dead_letters"):
            both = [pool.submit(replay, pipeline) for _ in range(2)]
            wait_until(
                lambda: len(pipeline.blocked_sessions("dead_letters")) == 2, deadline=20, what="both replays to wait"
            )
        (first, _), (second, _) = (each.result(REPLAY_SECONDS) for each in both)
    assert first.letters + second.letters == total / 2
    assert first.readings + second.readings == total
    assert pipeline.counts() == (total, total)
    assert letters(pipeline) == []


def test_replay_while_ingest_runs(make_rejected: Any, start_ingest: StartService) -> None:
    """Neither notices the other: all readings of both are there once, and no batch was fenced."""
    pipeline = make_rejected(too_hot(10_000))
    ingest = start_ingest(pipeline)
    fresh = [
        [{**reading, "ts": reading["ts"] + 1_000_000} for reading in message]
        for message in unique_readings(30_000, per_message=10)
    ]
    with flowing(pipeline, fresh, per_second=800):
        wait_until(pipeline.count, deadline=ARRIVAL_SECONDS, what="ingest to store")
        done, returned = replay(pipeline)
    assert (done.readings, returned) == (10_000, [])
    wait_until(pipeline.count, lambda stored: stored >= 40_000, deadline=ARRIVAL_SECONDS, what="all readings")
    assert pipeline.counts() == (40_000, 40_000)
    assert ingest.metric("sensorlog_ingest_fenced_batches_total") == 0


def test_dry_run_says_what_would_happen_and_changes_nothing(make_rejected: Any) -> None:
    """Also what only the database knows; a real run then does just that."""
    pipeline = make_rejected([*too_hot(2000), b"broken"])
    pipeline.query("ALTER TABLE sensor_data ADD CHECK (sensor_id <> 7)")
    every_column = "SELECT * FROM dead_letters ORDER BY 1, 2, 3"
    before = pipeline.query(every_column)
    said = replay(pipeline, dry_run=True)
    assert (said[0].letters, said[0].readings) == (1001, 1980)
    assert {letter.reason for letter in said[1]} == {"database_rejected", "not_json"}
    assert pipeline.query(every_column) == before
    assert pipeline.count() == 0
    assert len(said[1]) == 21
    done, returned = replay(pipeline)
    assert done == said[0]
    assert [(letter.id, letter.reason) for letter in returned] == [(letter.id, letter.reason) for letter in said[1]]
    assert pipeline.count() == 1980


def test_protobuf_is_replayed_as_protobuf(make_rejected: Any) -> None:
    """The stored headers say what the value is; what is still bad goes back as protobuf."""
    items = [SensorData(ts=SEED_TS, sensor_id=sensor, temperature=sensor * 100.0) for sensor in (1, 2, 3)]
    value = SensorDataList(items=items).SerializeToString()
    pipeline = make_rejected([value], headers=[("content-type", b"application/x-protobuf; v=1")])
    done, (returned,) = replay(pipeline)
    assert (done.readings, returned.reason) == (2, "out_of_range")
    assert pipeline.query("SELECT sensor_id, temperature FROM sensor_data ORDER BY 1") == [(1, 100.0), (2, 200.0)]
    ((_, _, left),) = pipeline.dead_letters()
    assert SensorDataList.FromString(left or b"").items == items[2:]


def test_sensors_of_replayed_readings_are_registered(make_rejected: Any) -> None:
    """As ingest would; they announced nothing, so they are not among the sensors that the replay tells of."""
    pipeline = make_rejected([[{"ts": SEED_TS, "sensor_id": n, "temperature": 100} for n in (7, 5, 7)]])
    pipeline.query("INSERT INTO sensors (id, type) VALUES (5, 'known')")
    done, _ = replay(pipeline)
    assert (done.readings, done.sensors, done.superseded) == (3, 0, 0)
    assert pipeline.query("SELECT id, type, updated_at = '-infinity' FROM sensors ORDER BY id") == [
        (5, "known", False),
        (7, None, True),
    ]


def test_corrected_value_takes_the_place_of_the_letter(make_rejected: Any) -> None:
    """All of it lands, or nothing of it and the letter stays as it was: people make mistakes too."""
    pipeline = make_rejected([b"broken", b"broken too"])
    first, second = letters(pipeline)
    named = Selection(ids=(first,))
    before = pipeline.query("SELECT * FROM dead_letters ORDER BY 1, 2, 3")
    good, bad = b'{"ts": 1646409307, "sensor_id": 1}', b'{"ts": 1646409307}'
    done, (returned,) = replay(pipeline, named, replacement="json", value=b"[%b,%b]" % (good, bad))
    assert (done.readings, returned.id, returned.reason) == (0, first, "missing_sensor_id")
    assert pipeline.query("SELECT * FROM dead_letters ORDER BY 1, 2, 3") == before
    assert pipeline.count() == 0

    done, returned_now = replay(pipeline, named, replacement="json", value=good)
    assert (done.letters, done.readings, returned_now) == (1, 1, [])
    assert letters(pipeline) == [second]
    assert replay(pipeline, named, replacement="json", value=good)[0].missing == (first,)
    assert pipeline.counts() == (1, 1)


def test_corrected_value_may_be_of_the_other_format(make_rejected: Any) -> None:
    """JSON in the place of protobuf, because people write that; and a value of several pieces arrives whole."""
    pipeline = make_rejected([b"broken"], headers=[("Content-Type", b"application/x-protobuf")])
    (reading,) = unique_readings(5000, per_message=5000)
    value = str(reading).replace("'", '"').encode()
    assert len(value) > 200_000
    replay(pipeline, Selection(ids=tuple(letters(pipeline))), replacement="json", value=value)
    assert pipeline.counts() == (5000, 5000)


def test_sensors_are_replayed_unless_something_newer_is_known(pipeline: Pipeline, start_ingest: StartService) -> None:
    """An announcement that was rejected is older than one that was accepted later: that one stays."""
    pipeline.query("ALTER TABLE sensors ADD CONSTRAINT letters_only CHECK (type NOT LIKE 'old%')")
    ingest = start_ingest(pipeline)
    pipeline.announce([{"id": 2, "type": "first"}])
    wait_for_value(lambda: pipeline.query("SELECT id FROM sensors"), [(2,)], deadline=20, what="sensors")
    pipeline.announce([{"id": 1, "type": "old one"}, {"id": 2, "type": "old two"}, {"id": 3, "type": "old three"}])
    wait_for_value(lambda: len(letters(pipeline)), 3, deadline=20, what="letters")
    pipeline.announce([{"id": 3, "type": "newer"}])
    wait_for_value(lambda: len(pipeline.query("SELECT id FROM sensors")), 2, deadline=20, what="sensors")
    assert ingest.stop() == 0
    pipeline.query("ALTER TABLE sensors DROP CONSTRAINT letters_only")

    done, returned = replay(pipeline)
    assert (done.letters, done.sensors, done.superseded, returned) == (3, 2, 1, [])
    assert pipeline.query("SELECT id, type FROM sensors ORDER BY id") == [(1, "old one"), (2, "old two"), (3, "newer")]
    assert letters(pipeline) == []


def test_letters_are_chosen_by_id_reason_topic_and_age(make_rejected: Any) -> None:
    """What was not meant stays; an id that is not there is named."""
    pipeline = make_rejected([*too_hot(8), b"broken", b"", b"[{"])
    there = letters(pipeline)
    nowhere = LetterId("nowhere", 0, 1)
    done, _ = replay(pipeline, Selection(ids=(there[0], nowhere, there[0])))
    assert (done.letters, done.readings, done.missing) == (1, 2, (nowhere,))
    assert replay(pipeline, Selection(topic="another"))[0].letters == 0
    pipeline.query("UPDATE dead_letters SET received_at = now() - interval '1 hour' WHERE reason = 'not_json'")
    assert replay(pipeline, Selection(newer_than=60, reason="not_json"))[0].letters == 0
    done, returned = replay(pipeline, Selection(reason="out_of_range", newer_than=600))
    assert (done.letters, done.readings, returned) == (3, 6, [])
    done, returned = replay(pipeline, Selection(reason="not_json"))
    assert (done.letters, len(returned)) == (2, 2)
    assert len(letters(pipeline)) == 3


def test_discarded_letters_are_gone(make_rejected: Any) -> None:
    """Those that were meant and no others; a dry run only counts them."""
    pipeline = make_rejected([*too_hot(3000), b"broken"])
    rubbish = Selection(reason="out_of_range")
    assert ask(pipeline, Request(action="discard", selection=rubbish, dry_run=True))[-1] == Progress(letters=1500)
    assert len(letters(pipeline)) == 1501
    assert ask(pipeline, Request(action="discard", selection=rubbish))[-1] == Progress(letters=1500)
    assert [reason for reason, _, _ in pipeline.dead_letters()] == ["not_json"]
    assert pipeline.count() == 0


def test_list_and_show_say_what_is_there(make_rejected: Any) -> None:
    """Counts by reason, the newest first, and every byte of one."""
    large = b"x" * 200_001
    pipeline = make_rejected([large, b"", *too_hot(4)], key=b"k\0", headers=[("trace", b"abc"), ("raw", b"\xff")])
    pipeline.query("UPDATE dead_letters SET received_at = now() - interval '1 hour' WHERE reason = 'out_of_range'")
    summary, *envelopes = ask(pipeline, Request(action="list", limit=3))
    assert isinstance(summary, Summary)
    assert [(each.reason, each.count) for each in summary.reasons] == [
        ("out_of_range", 2),
        ("empty_value", 1),
        ("not_json", 1),
    ]
    listed = [answer for answer in envelopes if isinstance(answer, Envelope)]
    assert len(listed) == len(envelopes) == 3
    assert listed[2].reason == "out_of_range"
    (broken,) = (each for each in listed if each.reason == "not_json")
    assert broken.value_bytes == len(large)

    contents, *parts = ask(pipeline, Request(action="show", selection=Selection(ids=(broken.id,))))
    assert isinstance(contents, Contents)
    assert contents.envelope == broken
    assert contents.key == "awA="
    assert contents.headers == [{"key": "trace", "value": "abc"}, {"key": "raw", "base64": "/w=="}]
    assert join(part.base64 for part in parts if isinstance(part, Piece)) == large
    nowhere = LetterId("nowhere", 0, 1)
    assert ask(pipeline, Request(action="show", selection=Selection(ids=(nowhere,)))) == [Progress(missing=(nowhere,))]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(action="show"), "say which letter"),
        (Request(action="list", selection=Selection(reason="oops")), "there is no reason 'oops'; there are: empty_"),
        (Request(action="replay", replacement="json"), "exactly one letter"),
    ],
)
def test_requests_that_do_not_fit_are_refused(request_: Request, said: str, pipeline: Pipeline) -> None:
    """In words that name what would."""
    (answer,) = ask(pipeline, request_)
    assert isinstance(answer, Refused)
    assert said in answer.message


def test_database_that_is_away_is_said(pipeline: Pipeline) -> None:
    """Without a traceback, and without the password."""
    (pipeline.directory / "database" / "uri").write_text("postgresql://u:secret@127.0.0.1:1/x")
    (answer,) = ask(pipeline, Request(action="list"))
    assert isinstance(answer, Failed)
    assert "127.0.0.1" in answer.message
    assert "secret" not in answer.message


def test_command_line_lists_shows_corrects_and_discards(make_rejected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands, the program and the database together; tests/e2e has them on a cluster."""
    pipeline = make_rejected([b'[{"ts": 1646409307, "sensor_id": 9, "temperature": 30,}]', b"rubbish", *too_hot(4)])

    def asked(request: Request, replacement: bytes) -> Iterator[Answer]:
        with program(pipeline, request, replacement) as process:
            assert process.stdout is not None
            yield from answers(process.stdout)

    monkeypatch.setattr(dead_letters, "_ask", lambda _where, _name: asked)

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(app, ["dead-letters", *arguments], input=stdin)

    listed = json.loads(run("list", "plant", "-o", "json").stdout)
    assert {each["reason"]: each["count"] for each in listed["reasons"]} == {"not_json": 2, "out_of_range": 2}
    first, second = (each["id"] for each in listed["letters"] if each["reason"] == "not_json")
    raw = {letter: run("show", "plant", letter, "--raw").stdout_bytes for letter in (first, second)}
    (broken,) = (letter for letter, value in raw.items() if value.endswith(b",}]"))

    result = run("replay", "plant", "--all")
    assert (result.exit_code, pipeline.count()) == (1, 4)
    result = run("replay", "plant", broken, "--value", "-", stdin=raw[broken].replace(b",}", b"}"))
    assert (result.exit_code, pipeline.counts()) == (0, (5, 5))
    assert run("replay", "plant", broken, "--value", "-", stdin=b"{}").exit_code == 3
    assert run("discard", "plant", "--reason", "not_json", stdin=b"y\n").exit_code == 0
    assert letters(pipeline) == []
    assert pipeline.counts() == (5, 5)
