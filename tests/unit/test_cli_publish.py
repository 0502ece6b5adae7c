"""Publishing: what is sent, and that no message is forgotten."""

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sensorlog.measurements import DEFAULT_MEASUREMENTS
from sensorlog.pipeline import PipelineConfig
from sensorlog.produce import Outcome, Record, main, read_records
from sensorlog_cli.app import app
from sensorlog_cli.commands.publish import Destination, _host_batches
from sensorlog_cli.delivery import _as_lines, deliver, kafka_options
from sensorlog_cli.errors import CliError, UsageError
from sensorlog_cli.host import Host, count_of_ticks, ticks
from sensorlog_cli.readings import Batch, Rules

NOWHERE = "127.0.0.1:1"


def batches(count: int) -> Iterator[Batch]:
    """Yield messages of ten readings each."""
    for n in range(count):
        yield Batch(Record("topic", str(n)), f"line {n}", f"line {n}", 10)


@given(st.lists(st.none() | st.just("too large"), max_size=20), st.randoms())
def test_every_outcome_is_counted_whatever_the_order(errors: list[str | None], random: object) -> None:
    """Outcomes come as brokers answer, not as records were sent."""

    def send(records: Iterable[Record]) -> Iterator[Outcome]:
        outcomes = [Outcome(index, errors[index]) for index, _ in enumerate(records)]
        random.shuffle(outcomes)  # type: ignore[attr-defined]
        yield from outcomes

    advanced: list[int] = []
    report = deliver(batches(len(errors)), send, advanced.append)
    assert report.messages == len(errors)
    assert report.delivered == 10 * errors.count(None)
    assert report.lost == 10 * errors.count("too large")
    assert sum(advanced) == 10 * len(errors)


def test_messages_nothing_was_heard_of_are_not_delivered() -> None:
    """Silence is not success."""

    def send(records: Iterable[Record]) -> Iterator[Outcome]:
        list(records)
        yield Outcome(1)

    report = deliver(batches(3), send, lambda _: None)
    assert [str(batch) for batch, _ in report.failed] == ["line 0", "line 2"]


def test_a_way_that_breaks_says_which_messages_were_cut_off() -> None:
    """What was delivered before stays delivered."""

    def send(records: Iterable[Record]) -> Iterator[Outcome]:
        taken = iter(records)
        next(taken)
        yield Outcome(0)
        next(taken)
        raise CliError("the pod is gone")

    report = deliver(batches(5), send, lambda _: None)
    assert report.delivered == 10
    [(batch, why)] = report.failed
    assert str(batch) == "line 1"
    assert "all after it" in why
    assert "the pod is gone" in why


def test_a_way_that_never_opened_is_an_error() -> None:
    """Nothing was taken, so there is nothing to report of."""

    def send(records: Iterable[Record]) -> Iterator[Outcome]:  # noqa: ARG001
        raise CliError("no pod")
        yield

    with pytest.raises(CliError, match="no pod"):
        deliver(batches(1), send, lambda _: None)


@given(st.lists(st.builds(Record, st.text(), st.text())))
def test_both_ends_of_the_pods_protocol_agree(records: list[Record]) -> None:
    """Every record survives as one line, and the empty line ends: what follows is not read."""
    lines = [*_as_lines(records), "not a record"]
    assert all("\n" not in line for line in lines)
    assert list(read_records(f"{line}\n" for line in lines)) == records


def pipeline_document(directory: Path) -> Path:
    """Write the document of a pipeline whose broker is nowhere."""
    kafka = {"bootstrapServers": NOWHERE, "groupId": "g"}
    document = {"namespace": "n", "name": "p", "schema": "s", "kafka": kafka}
    path = directory / "pipeline.json"
    path.write_text(PipelineConfig.model_validate(document).to_json())
    return path


def test_the_program_in_the_pod_waits_for_the_empty_line_and_ends(tmp_path: Path) -> None:
    """It ends while its standard input is still open, as an exec stream leaves it."""
    with subprocess.Popen(
        [sys.executable, "-m", "sensorlog.produce"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SENSORLOG_CONFIG": str(pipeline_document(tmp_path))},
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=30) == 0


def test_the_program_outside_a_pod_says_what_it_misses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason travels on standard output, where the command line listens."""
    monkeypatch.setenv("SENSORLOG_CONFIG", str(tmp_path / "missing.json"))
    said = io.StringIO()
    assert main(io.StringIO("\n"), said) == 1
    assert "missing.json" in json.loads(said.getvalue())["fatal"]


def test_a_broker_that_is_away_fails_each_message_and_the_command() -> None:
    """It exits 1 after the timeout and names the reading and the broker."""
    seed = '[{"ts": 1646409307, "sensor_id": 1, "temperature":30, "cpu":20}]'
    command = ["publish", "--data", seed, "--bootstrap-servers", NOWHERE, "--timeout", "1s", "-o", "json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    [failed] = json.loads(result.stdout)["failed"]
    assert (failed["readings"], failed["count"]) == ("reading 1", 1)
    assert NOWHERE in failed["error"]
    assert "not delivered: reading 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to publish"),
        (["-", "--from-host"], "say what to publish"),
        (["/nowhere/file"], "cannot read /nowhere/file"),
        (["--data", "[", "--bootstrap-servers", NOWHERE], "--data, line 1, column 2: not JSON"),
        (["-", "--bootstrap-servers", NOWHERE], "line 2: cpu: must be a finite number"),
        (["-", "-X", "a=b"], "--kafka-option goes with --bootstrap-servers"),
        (["-", "-X", "a", "--bootstrap-servers", NOWHERE], "'a' is not KEY=VALUE"),
        (["--from-host", "--interval", "0s"], "must be longer than nothing"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    """Status 2; the message names the option, or line and field."""
    lines = '{"ts": 1, "sensor_id": 1}\n{"ts": 1, "sensor_id": 1, "cpu": []}'
    result = CliRunner().invoke(app, ["publish", *arguments], input=lines)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())


def test_options_that_librdkafka_does_not_know_are_named() -> None:
    """Its own words say which."""
    command = ["publish", "--data", '{"ts":1,"sensor_id":1}', "--bootstrap-servers", NOWHERE, "-X", "nope=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert '"nope"' in result.stderr


def test_values_of_kafka_options_may_hold_an_equals_sign() -> None:
    """Passwords do."""
    assert kafka_options(["sasl.password=a=b"]) == {"sasl.password": "a=b"}
    with pytest.raises(UsageError):
        kafka_options(["=x"])


def test_this_machine_announces_its_sensors_and_sends_fitting_readings() -> None:
    """One sensor a core, ids stable and safe for JavaScript, readings as the pipeline declares them."""
    host = Host(["cpu"], "ms", hostname="machine")
    again = Host(["cpu"], "ms", hostname="machine")
    assert host.sensors == again.sensors
    assert all(0 <= sensor.id < 2**53 for sensor in host.sensors)
    assert not {s.id for s in host.sensors} & {s.id for s in Host(["cpu"], "ms", hostname="another").sensors}

    rules = Rules("ms", DEFAULT_MEASUREMENTS)
    destination = Destination(lambda _: iter(()), "readings", "sensors", rules)
    sent = list(_host_batches(host, destination, range(2)))
    announced = [json.loads(batch.record.value) for batch in sent if batch.record.topic == "sensors"]
    readings = [r for batch in sent if batch.record.topic == "readings" for r in json.loads(batch.record.value)]
    assert announced[0] == {"id": host.sensors[0].id, "type": "cpu core 0", "location": "machine"}
    assert len(readings) == 2 * len(announced)
    assert all(not list(rules.problems(reading)) for reading in readings)


def test_a_pipeline_that_takes_nothing_of_this_machine_is_refused() -> None:
    """The measurements it has are named."""
    with pytest.raises(CliError, match="humidity"):
        Host(["humidity"], "s")


def test_ticks_do_not_drift() -> None:
    """A slow reader delays one tick, not all that follow."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    moments = []
    for _ in ticks(5, 1, clock=lambda: clock[0], sleep=sleep):
        moments.append(clock[0])
        clock[0] += 0.4
    assert moments == [1, 2, 3, 4, 5]
    assert count_of_ticks(0.5, 1) == 1
