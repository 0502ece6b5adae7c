"""A database or a broker that goes away costs time, never a reading."""

import psutil
import pytest

from sensorlog.pipeline import BatchConfig
from support.database import Database
from support.kafka import KafkaBroker
from support.outages import BROKER_AWAY, DATABASE_AWAY, outlast, stored_once, wait_for_progress, wait_unready
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import ServiceProcess, StartService
from support.waiting import wait_until

pytestmark = pytest.mark.integration

OUTAGE_SECONDS = 60
FLOW_SECONDS = OUTAGE_SECONDS + 8
"""Readings keep coming before, during and after the outage."""

PER_SECOND = 300
PADDING = 10_000
"""Bytes of a field that nobody declared. The outage's 180 MB of it would show if the process kept them."""

HOARD_BYTES = 80 * 1024 * 1024
"""What may come on top: 32 MB in librdkafka, batches of 4 MB that wait, the allocator's slack."""


@pytest.fixture
def busy(make_pipeline: MakePipeline) -> Pipeline:
    """Return a pipeline for a stream of readings."""
    return make_pipeline(partitions=3)


def resident(process: ServiceProcess) -> int:
    """Return the bytes of memory that the process has in use."""
    return int(psutil.Process(process.process.pid).memory_info().rss)


def test_database_away_for_a_minute(
    make_pipeline: MakePipeline, database: Database, start_ingest: StartService
) -> None:
    """While the database is stopped ingest lives, is not ready, keeps its partitions, hoards and loses nothing."""
    pipeline = make_pipeline(partitions=3, batch=BatchConfig(max_bytes=4_000_000))
    process = start_ingest(pipeline)
    with stored_once(pipeline, seconds=FLOW_SECONDS, per_second=PER_SECOND, padding=PADDING):
        sizes = [resident(process)]
        with database.stopped():
            wait_unready(process, DATABASE_AWAY)
            outlast(process, OUTAGE_SECONDS, lambda: sizes.append(resident(process)))
            assert process.metric("sensorlog_ingest_database_up") == 0
            assert process.metric("sensorlog_ingest_assigned_partitions") == 4
            assert process.get("/readyz")[0] == 503
        process.wait_ready()
        wait_for_progress(pipeline)
    assert max(sizes) - sizes[0] < HOARD_BYTES
    assert process.metric("sensorlog_ingest_reconnects_total") >= 1


def test_database_away_while_nothing_flows(pipeline: Pipeline, database: Database, start_ingest: StartService) -> None:
    """Readiness and metric show it before a message does."""
    process = start_ingest(pipeline)
    with database.stopped():
        wait_unready(process, DATABASE_AWAY, deadline=15)
        assert process.metric("sensorlog_ingest_database_up") == 0
    process.wait_ready()
    assert process.metric("sensorlog_ingest_database_up") == 1


def test_database_killed(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A database that crashes in mid-transaction recovers, and so does ingest."""
    process = start_ingest(busy)
    with stored_once(busy):
        with database.killed():
            wait_unready(process, DATABASE_AWAY)
        process.wait_ready()


def test_database_away_at_the_start(pipeline: Pipeline, database: Database, start_ingest: StartService) -> None:
    """Ingest may start before its database."""
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
    with database.stopped():
        process = start_ingest(pipeline, wait=False)
        wait_unready(process, DATABASE_AWAY)
    process.wait_ready()
    wait_until(pipeline.count, lambda stored: stored == 1, deadline=30, what="the reading")


def test_sessions_cut_in_mid_stream(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A session that ends at any moment, at COMMIT too, leaves the offsets to tell what was stored."""
    start_ingest(busy)
    with stored_once(busy):
        for _ in range(20):
            wait_until(lambda: database.cut_connections("sensorlog-ingest"), deadline=20, what="a session to cut")


def test_statements_cancelled_in_mid_stream(busy: Pipeline, database: Database, start_ingest: StartService) -> None:
    """A cancelled statement is tried again; it is no fault of the rows."""
    process = start_ingest(busy)
    with stored_once(busy):
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
    with stored_once(busy), busy.locked():
        wait_until(lambda: process.metric("sensorlog_ingest_pauses_total"), deadline=30, what="fetching to be paused")
        assert process.get("/livez")[0] == 200


def test_broker_restart(busy: Pipeline, broker: KafkaBroker, start_ingest: StartService) -> None:
    """Ingest finds the broker again by itself."""
    process = start_ingest(busy)
    with stored_once(busy):
        broker.restart()
    assert process.is_running


def test_broker_away_for_a_minute(busy: Pipeline, broker: KafkaBroker, start_ingest: StartService) -> None:
    """Without a broker ingest lives and is not ready; when it is back, so are the messages."""
    process = start_ingest(busy)
    with stored_once(busy, seconds=FLOW_SECONDS, per_second=100):
        with broker.stopped():
            wait_unready(process, BROKER_AWAY)
            outlast(process, OUTAGE_SECONDS)
            assert process.get("/readyz")[0] == 503
            assert process.metric("sensorlog_ingest_database_up") == 1
        process.wait_ready()


def test_sigterm_without_database_ends_in_time(
    pipeline: Pipeline, database: Database, start_ingest: StartService
) -> None:
    """What cannot be stored now is read again by the next process."""
    process = start_ingest(pipeline)
    with database.stopped():
        pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
        wait_unready(process, DATABASE_AWAY)
        assert process.stop(deadline=20) == 0
    start_ingest(pipeline)
    wait_until(pipeline.count, lambda stored: stored == 1, deadline=30, what="the reading")
