"""A database or a broker that goes away costs time, never a reading."""

import contextlib
from collections.abc import Iterator

import pytest

from support.database import Database
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import ServiceProcess, StartService
from support.streams import flowing, unique_readings
from support.waiting import wait_until

pytestmark = pytest.mark.integration

READINGS = 60_000
SETTLE_SECONDS = 90


@pytest.fixture
def busy(make_pipeline: MakePipeline) -> Pipeline:
    """Return a pipeline for a stream of readings."""
    return make_pipeline(partitions=3)


@contextlib.contextmanager
def stream(pipeline: Pipeline) -> Iterator[None]:
    """Let readings flow during this block, then check that each is stored once."""
    with flowing(pipeline, unique_readings(READINGS, per_message=10), per_second=500):
        wait_for_progress(pipeline)
        yield
    wait_until(pipeline.count, lambda n: n >= READINGS, deadline=SETTLE_SECONDS, what=f"{READINGS} readings")
    assert pipeline.counts() == (READINGS, READINGS)


def wait_for_progress(pipeline: Pipeline) -> None:
    """Wait until more is stored than now."""
    before = pipeline.count()
    wait_until(pipeline.count, lambda stored: stored > before, deadline=SETTLE_SECONDS, what="more readings")


def wait_unready(process: ServiceProcess, reason: str) -> None:
    """Wait until readiness says no with this reason; liveness must say yes all the while."""
    wait_until(
        lambda: process.get("/readyz"),
        lambda reply: reply[0] == 503 and reason in reply[1],
        deadline=60,
        what=f"readiness to say {reason!r}",
    )
    assert process.get("/livez")[0] == 200


def test_database_away(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """While the database is stopped ingest lives, is not ready, keeps its partitions, and loses nothing."""
    process = start_ingest(busy)
    with stream(busy):
        with database.stopped():
            wait_unready(process, "the database does not take batches")
            assert process.metric("sensorlog_ingest_database_up") == 0
            assert process.metric("sensorlog_ingest_assigned_partitions") == 4
        process.wait_ready()
        wait_for_progress(busy)
    assert process.metric("sensorlog_ingest_reconnects_total") >= 1


def test_database_killed(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A database that crashes in mid-transaction recovers, and so does ingest."""
    process = start_ingest(busy)
    with stream(busy):
        with database.killed():
            wait_unready(process, "the database does not take batches")
        process.wait_ready()


def test_database_away_at_the_start(pipeline: Pipeline, database: Database, start_ingest: StartService) -> None:
    """Ingest may start before its database."""
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
    with database.stopped():
        process = start_ingest(pipeline, wait=False)
        wait_unready(process, "the database does not take batches")
    process.wait_ready()
    wait_until(pipeline.count, lambda stored: stored == 1, deadline=30, what="the reading")


def test_sessions_cut_in_mid_stream(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A session that ends at any moment, at COMMIT too, leaves the offsets to tell what was stored."""
    start_ingest(busy)
    with stream(busy):
        for _ in range(20):
            wait_until(lambda: database.cut_connections("sensorlog-ingest"), deadline=20, what="a session to cut")


def test_statements_cancelled_in_mid_stream(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A cancelled statement is tried again; it is no fault of the rows."""
    process = start_ingest(busy)
    with stream(busy):
        for _ in range(3):
            with busy.locked():
                wait_until(busy.blocked_sessions, deadline=20, what="a statement to cancel")
                for pid in busy.blocked_sessions():
                    database.execute("SELECT pg_cancel_backend(%s)", [pid])
            wait_for_progress(busy)
    assert process.is_running
    assert busy.dead_letters() == []


def test_long_lock_on_the_table(busy: Pipeline, start_ingest: StartService) -> None:
    """While somebody holds the table, ingest stops fetching and goes on when it is free."""
    process = start_ingest(busy)
    with stream(busy), busy.locked():
        wait_until(lambda: process.metric("sensorlog_ingest_pauses_total"), deadline=30, what="fetching to be paused")
        assert process.get("/livez")[0] == 200


def test_broker_restart(busy: Pipeline, broker: KafkaBroker, start_ingest: StartService) -> None:
    """Ingest finds the broker again by itself."""
    process = start_ingest(busy)
    with stream(busy):
        broker.restart()
    assert process.is_running


def test_broker_away(pipeline: Pipeline, broker: KafkaBroker, start_ingest: StartService) -> None:
    """Without a broker ingest lives and is not ready; when it is back, so are the messages."""
    process = start_ingest(pipeline)
    with broker.stopped():
        wait_unready(process, "no broker answers")
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
    wait_until(pipeline.count, lambda stored: stored == 1, deadline=60, what="the reading")
    process.wait_ready()


def test_sigterm_without_database_ends_in_time(
    pipeline: Pipeline, database: Database, start_ingest: StartService
) -> None:
    """What cannot be stored now is read again by the next process."""
    process = start_ingest(pipeline)
    with database.stopped():
        pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
        wait_unready(process, "the database does not take batches")
        assert process.stop(deadline=20) == 0
    start_ingest(pipeline)
    wait_until(pipeline.count, lambda stored: stored == 1, deadline=30, what="the reading")
