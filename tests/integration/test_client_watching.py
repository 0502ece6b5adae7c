"""A program that watches, in Python or at the command line, and does not notice that servers come and go."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sensorlog.client import Client, MissedReason, Reading, UnavailableError
from support.containers import free_port
from support.pipelines import SEED_TS, Pipeline
from support.processes import StartService
from support.query import query_service
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 30


def values(first: int, count: int) -> list[dict[str, int]]:
    """Return readings as messages, a second each."""
    return [{"ts": SEED_TS + n, "sensor_id": 1, "temperature": n % 100} for n in range(first, first + count)]


def test_watch_outlasts_its_server(pipeline: Pipeline, start_service: StartService, start_ingest: StartService) -> None:
    """Killed and started again on the same port; what is stored meanwhile comes too, and everything once."""
    start_ingest(pipeline)
    settings = {"SENSORLOG_GRPC_PORT": str(free_port())}
    server = start_service("sensorlog_query", pipeline, **settings).wait_ready()
    came: list[Reading] = []
    resumed: list[Exception] = []
    with Client(f"127.0.0.1:{settings['SENSORLOG_GRPC_PORT']}") as client:
        watch = client.watch(on_resumed=resumed.append)

        def follow() -> None:
            for event in watch.events():
                came.extend(event.readings)
                if len(came) == 300:
                    return

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        wait_until(lambda: watch.resume_token, deadline=ARRIVAL_SECONDS, what="the watch")
        pipeline.produce(values(0, 100))
        wait_for_value(lambda: len(came), 100, deadline=ARRIVAL_SECONDS, what="readings")
        server.kill()
        pipeline.produce(values(100, 100))
        wait_for_value(pipeline.count, 200, deadline=ARRIVAL_SECONDS, what="readings stored")
        start_service("sensorlog_query", pipeline, **settings).wait_ready()
        pipeline.produce(values(200, 100))
        follower.join(ARRIVAL_SECONDS)
    assert sorted(reading.ts - SEED_TS for reading in came) == list(range(300))
    assert came[0].values["temperature"] == (came[0].ts - SEED_TS) % 100
    assert resumed, resumed


def test_watch_without_a_service_gives_up_when_its_patience_ends() -> None:
    """Nobody is there; waiting longer would not be noticed."""
    with Client(f"127.0.0.1:{free_port()}") as client, pytest.raises(UnavailableError):
        next(client.watch(patience=0.5).events())


def test_token_of_before_a_restore_is_told_as_missed(pipeline: Pipeline, start_service: StartService) -> None:
    """As a reason that a program can act on."""
    with query_service(start_service, pipeline) as service, Client(service.target) as client:
        record = "INSERT INTO ingest_batches (rows, first_time, last_time) VALUES (0, now(), now())"
        pipeline.query(record)
        token = next(client.watch().events()).resume_token
        pipeline.query("DELETE FROM ingest_batches")
        event = next(client.watch(resume_token=token).events())
        assert [missed.reason for missed in event.missed] == [MissedReason.DATABASE_CHANGED]


def test_command_shows_readings_and_goes_on_from_its_last_line(
    pipeline: Pipeline, start_service: StartService, start_ingest: StartService, tmp_path: Path
) -> None:
    """Ctrl-C ends it with 130 and nothing more to say."""
    start_ingest(pipeline)
    with query_service(start_service, pipeline) as service:
        command = [sys.executable, "-m", "sensorlog_cli", "watch", "--endpoint", service.target, "--json"]
        first = tmp_path / "first"
        token = follow(pipeline, command, first, values(0, 50))
        pipeline.produce(values(50, 50))
        wait_for_value(pipeline.count, 100, deadline=ARRIVAL_SECONDS, what="readings stored")
        second = tmp_path / "second"
        follow(pipeline, [*command, "--resume-token", token], second, values(100, 50))
    shown = [line["ts"] - SEED_TS for path in (first, second) for line in lines(path) if "ts" in line]
    assert sorted(shown) == list(range(150))


def follow(pipeline: Pipeline, command: list[str], path: Path, readings: list[dict[str, int]]) -> str:
    """Run the command while `readings` are sent, until it has shown the last of them; return its last token."""
    with path.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
    wait_until(lambda: lines(path), deadline=ARRIVAL_SECONDS, what="the first token")
    pipeline.produce(readings)
    last = readings[-1]["ts"]
    wait_until(
        lambda: any(line.get("ts") == last for line in lines(path)) and "resume_token" in lines(path)[-1],
        deadline=ARRIVAL_SECONDS,
        what="the last reading",
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=ARRIVAL_SECONDS)
    assert (process.returncode, errors.decode()) == (130, "")
    return str(lines(path)[-1]["resume_token"])


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines written so far."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
