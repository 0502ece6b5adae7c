"""The commands on dead letters: which letters are meant, how they look, and with which status a command ends."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from sensorlog.letters import (
    Answer,
    Contents,
    Envelope,
    Failed,
    LetterId,
    Piece,
    Progress,
    ReasonCount,
    Refused,
    Request,
    Returned,
    Selection,
    Summary,
    pieces,
)
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog_cli.app import app
from sensorlog_cli.commands import dead_letters
from sensorlog_cli.errors import CliError, UnreachableError, UsageError
from sensorlog_cli.letter_page import hex_dump, page
from sensorlog_cli.letters import Letter, answers, changed, ids_of, missing

NOW = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
ID = LetterId("logger.sensor.ts", 0, 12)
SUMMARY = Summary(
    as_of=NOW,
    reasons=(
        ReasonCount(reason="out_of_range", count=7, value_bytes=700, newest=NOW),
        ReasonCount(reason="not_json", count=1, value_bytes=3, newest=NOW),
    ),
)


def envelope(size: int | None, **fields: Any) -> Envelope:
    """Return a letter of a list."""
    given = {"id": ID, "received_at": NOW, "reason": "not_json", "detail": "not_json: [oops]\nand 2 more", **fields}
    return Envelope(value_bytes=size, **given)


def letter(value: bytes | None, **fields: Any) -> Letter:
    """Return a letter with this value."""
    given = {"key": None, "headers": None, **fields}
    return Letter(Contents(envelope=envelope(None if value is None else len(value)), **given), value)


class Pod:
    """An ingest pod that answers each action as it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, bytes]] = []
        self.says: dict[str, list[Answer]] = {"list": [SUMMARY, envelope(3)], "discard": [Progress(letters=8)]}

    def ask(self, request: Request, replacement: bytes) -> Iterator[Answer]:
        """Carry out a request."""
        self.asked.append((request, replacement))
        return answers(answer.line() for answer in self.says[request.action])

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        """Run the program."""
        return CliRunner().invoke(app, ["dead-letters", *arguments], input=stdin)


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> Pod:
    """Return the pod that the commands find; how one is found is `publish`'s way too and tested there."""
    pod = Pod()
    monkeypatch.setattr(dead_letters, "_ask", lambda _where, _name: pod.ask)
    return pod


def test_ids_are_read_as_they_are_shown() -> None:
    """Each once, whatever dots and dashes a topic has."""
    assert ids_of([str(ID), "a-b_c.d/3/0", str(ID)]) == (ID, LetterId("a-b_c.d", 3, 0))


@pytest.mark.parametrize("text", ["", "topic", "topic/1", "topic/a/1", "a/b/1/2"])
def test_texts_that_are_no_id_are_refused(text: str) -> None:
    """The message shows how one looks."""
    with pytest.raises(UsageError, match="TOPIC/PARTITION/OFFSET"):
        ids_of([text])


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        (Refused(message="no reason 'x'").line(), UsageError, "no reason 'x'"),
        (Failed(message="the database is away").line(), CliError, "the database is away"),
        ('{"kind": "news"}', CliError, "another version"),
        ("Traceback", CliError, "another version"),
    ],
)
def test_answers_that_end_a_request_become_errors(line: str, kind: type[CliError], said: str) -> None:
    """What came before them was answered."""
    said_before: list[Answer] = []
    with pytest.raises(kind, match=said) as caught:
        said_before.extend(answers([Progress(letters=1).line(), line]))
    assert type(caught.value) is kind


def test_an_ingest_that_is_too_old_is_named() -> None:
    """Python's own words would not help anybody."""

    def lines() -> Iterator[str]:
        raise CliError("the program in the pod failed: python: No module named sensorlog_ingest.letters")
        yield

    with pytest.raises(CliError, match="upgrade the sensorlog chart"):
        list(answers(lines()))


@pytest.mark.parametrize("kind", [CliError, UnreachableError])
def test_a_replay_that_was_cut_off_says_what_was_done_and_to_repeat_it(kind: type[CliError]) -> None:
    """Each transaction is whole, so a repetition doubles nothing; the status stays that of the cause."""

    def ask(_request: Request, _replacement: bytes) -> Iterator[Answer]:
        yield Progress(letters=1000)
        yield Progress(letters=2000)
        raise kind("the connection was cut")

    advanced: list[int] = []
    with pytest.raises(kind, match="was cut; 2000 dead letters were done before that; repeat") as caught:
        changed(ask, Request(action="replay"), b"", advanced.append)
    assert type(caught.value) is kind
    assert advanced == [1000, 1000]


def test_list_shows_the_newest_and_counts_all(pod: Pod) -> None:
    """The detail on one line, the reasons below, and that there are more."""
    result = pod.run("list", "plant", "--limit", "1", "--since", "1h", "--reason", "not_json", "--topic", "t")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].split() == [
        *(str(ID), "2026-03-04T12:00:00Z", "not_json", "3"),
        *("not_json:", "[oops]", "(+1)"),
    ]
    assert [line.split()[:2] for line in lines[-3:]] == [["out_of_range", "7"], ["not_json", "1"], ["in", "all"]]
    assert "stopped at 1 letter, there are 8" in result.stderr
    ((request, _),) = pod.asked
    assert request == Request(
        action="list", selection=Selection(reason="not_json", topic="t", newer_than=3600), limit=1
    )


def test_list_for_programs(pod: Pod) -> None:
    """JSON has the counts too, jsonl is the letters alone."""
    document = json.loads(pod.run("list", "plant", "-o", "json").stdout)
    assert document["count"] == 8
    assert document["reasons"][0]["reason"] == "out_of_range"
    (only,) = document["letters"]
    assert (only["id"], only["received_at"]) == (str(ID), "2026-03-04T12:00:00.123456Z")
    assert [json.loads(line) for line in pod.run("list", "plant", "-o", "jsonl").stdout.splitlines()] == [only]


def test_list_of_nothing_is_empty(pod: Pod) -> None:
    """Nothing on standard output for people, an empty list for programs; no failure."""
    pod.says["list"] = [Summary(as_of=NOW, reasons=())]
    result = pod.run("list", "plant")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no dead letters\n")
    assert json.loads(pod.run("list", "plant", "-o", "json").stdout)["letters"] == []


def on_page(letter: Letter) -> list[str]:
    """Return the lines of a letter's page."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(page(letter), soft_wrap=True)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_show_indents_json_and_keeps_each_token_as_it_was_sent() -> None:
    """Numbers that a parser would change, doubled keys, NaN: what is wrong must stay to be seen."""
    lines = on_page(letter(b'[{"ts":1646409307000000000000,"ts": 1.50, "cpu":NaN, "a":"x, \\"y\\": [z]"}]'))
    assert lines[lines.index("[") :] == [
        "[",
        "  {",
        '    "ts": 1646409307000000000000,',
        '    "ts": 1.50,',
        '    "cpu": NaN,',
        '    "a": "x, \\"y\\": [z]"',
        "  }",
        "]",
    ]


def test_show_has_every_field() -> None:
    """Text as text, bytes in hexadecimal, all lines of the detail."""
    headers = [{"key": "trace", "value": "[bold]"}, {"key": "raw", "base64": "/w=="}, {"key": "none", "value": None}]
    text = "\n".join(on_page(letter(b"[{", key="awA=", headers=headers)))
    for part in (str(ID), "2026-03-04T12:00:00.123456Z", "not_json: [oops]", "and 2 more", "6b 00"):
        assert part in text
    for part in ("trace: [bold]", "raw: base64 /w==", "none: None", "2 bytes", "\n[{"):
        assert part in text


def test_show_dumps_binary_values() -> None:
    """As hexdump does, and what protobuf says besides."""
    assert on_page(letter(b"\x00\xffABC" * 4))[-2:] == [
        "00000000  00 ff 41 42 43 00 ff 41 42 43 00 ff 41 42 43 00  |..ABC..ABC..ABC.|",
        "00000010  ff 41 42 43                                      |.ABC|",
    ]
    value = SensorDataList(items=[SensorData(ts=1, sensor_id=2, temperature=30)]).SerializeToString()
    headers = [{"key": "Content-Type", "value": "application/x-protobuf"}]
    readable, dumped = on_page(letter(value, headers=headers))[-2:]
    assert json.loads(readable) == {"ts": 1, "sensor_id": 2, "temperature": 30.0}
    assert dumped == next(hex_dump(value)).rstrip()
    assert on_page(letter(b"\xff\xff", headers=headers))[-1].startswith("00000000  ff ff")


def say_letter(pod: Pod, value: bytes) -> None:
    """Have the pod know one letter with this value."""
    pod.says["show"] = [letter(value).contents, *(Piece(base64=text) for text in pieces(value))]


def test_show_raw_is_the_value_byte_for_byte(pod: Pod) -> None:
    """So that it can be corrected and given back; also one of several pieces."""
    value = bytes(range(256)) * 1000
    say_letter(pod, value)
    result = pod.run("show", "plant", str(ID), "--raw")
    assert (result.exit_code, result.stdout_bytes) == (0, value)


def test_show_for_programs_has_text_or_base64(pod: Pod) -> None:
    """Its name tells which."""
    say_letter(pod, b"[{")
    assert json.loads(pod.run("show", "plant", str(ID), "-o", "json").stdout)["value"] == "[{"
    say_letter(pod, b"\xff")
    assert json.loads(pod.run("show", "plant", str(ID), "-o", "json").stdout)["value_base64"] == "/w=="


def test_show_of_what_is_not_there_ends_with_3(pod: Pod) -> None:
    """The message says where it may have gone."""
    pod.says["show"] = [Progress(missing=(ID,))]
    result = pod.run("show", "plant", str(ID))
    assert (result.exit_code, result.stdout) == (3, "")
    assert missing((ID,)) in result.stderr


LANDED = Progress(letters=8, readings=20, sensors=1, superseded=1)


def test_replay_in_which_all_lands_ends_with_0(pod: Pod) -> None:
    """Its table says what was stored; only what was counted before is replayed."""
    pod.says["replay"] = [Progress(letters=4), LANDED]
    result = pod.run("replay", "plant", "--all")
    assert result.exit_code == 0
    told = {" ".join(line.split()[:-1]): line.split()[-1] for line in result.stdout.splitlines()[1:]}
    assert told == {
        "dead letters": "8",
        "readings stored": "20",
        "sensors stored": "1",
        "sensors left as they are, newer": "1",
    }
    assert pod.asked[-1] == (Request(action="replay", selection=Selection(until=NOW)), b"")


def test_replay_of_which_some_is_still_rejected_ends_with_1(pod: Pod) -> None:
    """By reason on standard output, one by one on standard error, and all of it for programs."""
    returned = [Returned(id=ID, reason="out_of_range", detail=f"reading {n}: [too hot]") for n in range(30)]
    pod.says["replay"] = [*returned, LANDED]
    result = pod.run("replay", "plant", "--reason", "out_of_range")
    assert result.exit_code == 1
    assert "still rejected: out_of_range" in result.stdout
    assert f"still rejected: {ID}: reading 0: [too hot]" in result.stderr
    assert "still rejected: 10 more letters" in result.stderr
    document = json.loads(pod.run("replay", "plant", "--reason", "out_of_range", "-o", "json").stdout)
    assert len(document["rejected"]) == 30
    assert (document["letters"], document["dry_run"]) == (8, False)


def test_replay_of_an_id_that_is_not_there_ends_with_3(pod: Pod) -> None:
    """Replayed before, perhaps by a command whose answer got lost: nothing to be done."""
    pod.says["replay"] = [Progress(missing=(ID,))]
    result = pod.run("replay", "plant", str(ID))
    assert result.exit_code == 3
    assert missing((ID,)) in result.stderr


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [("y\n", 0, ""), ("n\n", 1, "nothing was changed"), ("", 2, "nobody answered; --all says yes")],
)
def test_replay_of_everything_asks_first(pod: Pod, answer: str, status: int, said: str) -> None:
    """How many and of which reasons is shown; nothing happens without a yes."""
    pod.says["replay"] = [LANDED]
    result = pod.run("replay", "plant", stdin=answer)
    assert result.exit_code == status
    assert "replay all 8 dead letters of plant?" in result.stderr
    assert "out_of_range" in result.stderr
    assert said in result.stderr
    assert [request.action for request, _ in pod.asked] == (["list", "replay"] if status == 0 else ["list"])


def test_discard_asks_whatever_is_named(pod: Pod) -> None:
    """It cannot be undone; --yes is for scripts."""
    assert pod.run("discard", "plant", str(ID), stdin="n\n").exit_code == 1
    assert pod.run("discard", "plant", "--all").exit_code == 2
    assert [request.action for request, _ in pod.asked] == ["list"]
    result = pod.run("discard", "plant", "--all", "--yes")
    assert (result.exit_code, result.stdout) == (0, "8 dead letters discarded\n")
    assert pod.asked[-1] == (Request(action="discard", selection=Selection(until=NOW)), b"")


def test_dry_runs_ask_nothing_and_say_so(pod: Pod) -> None:
    """They change nothing."""
    pod.says["replay"] = [LANDED]
    for command, said in (("replay", "would be"), ("discard", "8 dead letters would be discarded")):
        result = pod.run(command, "plant", "--since", "1h", "--dry-run")
        assert result.exit_code == 0
        assert said in result.stdout
        assert pod.asked[-1][0].dry_run


@pytest.mark.parametrize("from_file", [True, False])
def test_corrected_value_is_sent_as_it_is(pod: Pod, tmp_path: Path, *, from_file: bool) -> None:
    """From a file or standard input; the message says that a wrong one changed nothing."""
    value = b'\xff{"ts": 1}\n'
    (tmp_path / "value").write_bytes(value)
    pod.says["replay"] = [Returned(id=ID, reason="missing_sensor_id", detail="x"), Progress(letters=1)]
    where = str(tmp_path / "value") if from_file else "-"
    result = pod.run("replay", "plant", str(ID), "--value", where, "--protobuf", stdin=value)
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert pod.asked == [
        (Request(action="replay", selection=Selection(ids=(ID,)), replacement="protobuf"), value),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "plant", "--value", "-"], "name exactly one ID"),
        (["replay", "plant", str(ID), "t/0/1", "--value", "-"], "name exactly one ID"),
        (["replay", "plant", str(ID), "--value", "/nowhere/file"], "cannot read /nowhere/file"),
        (["replay", "plant", str(ID), "--protobuf"], "--protobuf says what --value is"),
        (["replay", "plant", str(ID), "--all"], "give one of the three"),
        (["replay", "plant", "--all", "--since", "1h"], "give one of the three"),
        (["replay", "plant", "oops"], "'oops' is not TOPIC/PARTITION/OFFSET"),
        (["discard", "plant"], "say which to discard"),
        (["show", "plant", str(ID), "--raw", "-o", "json"], "--raw writes bytes"),
        (["list", "plant", "--since", "0s"], "must be longer than nothing"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_asked(pod: Pod, arguments: list[str], said: str) -> None:
    """Status 2, and the message names the option."""
    result = pod.run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())
    assert pod.asked == []
