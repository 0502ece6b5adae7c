"""Whatever ends an ingest process, every reading that was sent is stored, and stored once."""

import pytest

from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import ServiceProcess, StartService
from support.streams import flowing, unique_readings
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

SETTLE_SECONDS = 90
"""A killed member's partitions move after the group's session timeout; then the rest has to be written."""


def settle(pipeline: Pipeline, count: int) -> None:
    """Wait until `count` readings are stored, all of them different."""
    wait_until(pipeline.count, lambda stored: stored >= count, deadline=SETTLE_SECONDS, what=f"{count} readings")
    assert pipeline.counts() == (count, count)


def wait_for_progress(pipeline: Pipeline) -> None:
    """Wait until more is stored than now."""
    before = pipeline.count()
    wait_until(pipeline.count, lambda stored: stored > before, deadline=SETTLE_SECONDS, what="more readings")


def test_kill_9_again_and_again(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """Five processes in turn die in mid-stream; the sixth finds everything that is missing, and nothing twice."""
    pipeline = make_pipeline(partitions=4)
    with flowing(pipeline, unique_readings(300_000, per_message=10), per_second=800):
        for _ in range(5):
            process = start_ingest(pipeline, wait=False)
            wait_for_progress(pipeline)
            process.kill()
    start_ingest(pipeline)
    settle(pipeline, 300_000)


def test_replicas_come_and_go_while_data_flows(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """From one to three, one killed, one stopped in an orderly way: the others take over."""
    pipeline = make_pipeline(partitions=6)
    with flowing(pipeline, unique_readings(200_000, per_message=10), per_second=600):
        first = start_ingest(pipeline)
        wait_for_progress(pipeline)
        second, third = start_ingest(pipeline), start_ingest(pipeline)
        wait_until(
            lambda: [p.metric("sensorlog_ingest_assigned_partitions") for p in (first, second, third)],
            lambda assigned: all(assigned) and sum(assigned) == 7,
            deadline=60,
            what="the partitions to be shared",
        )
        first.kill()
        wait_for_progress(pipeline)
        assert second.stop() == 0
        wait_for_progress(pipeline)
    settle(pipeline, 200_000)
    wait_for_value(
        lambda: third.metric("sensorlog_ingest_assigned_partitions"), 7.0, deadline=60, what="the last one's partitions"
    )


def test_sigterm_stores_what_was_read(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """Stopping ends with exit code 0 in time, and the next process goes on at once, without a wait for eviction."""
    pipeline = make_pipeline(partitions=3)
    with flowing(pipeline, unique_readings(60_000, per_message=10), per_second=1000):
        for _ in range(3):
            process = start_ingest(pipeline)
            wait_for_progress(pipeline)
            assert process.stop(deadline=20) == 0
            assert "stopped" in process.logs.splitlines()[-1]
    start_ingest(pipeline)
    settle(pipeline, 60_000)


def freeze_waiting_for(table: str, pipeline: Pipeline, process: ServiceProcess) -> None:
    """Freeze the process in a transaction of one reading, with a statement on its way that needs `table`.

    The database finishes that statement once the process is frozen.
    """
    with pipeline.locked(table):
        pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
        wait_until(lambda: pipeline.blocked_sessions(table), deadline=20, what=f"a batch to wait for {table}")
        process.freeze()


def test_zombie_cannot_store_what_others_have_stored(pipeline: Pipeline, start_ingest: StartService) -> None:
    """A process that was frozen in mid-transaction wakes up after its partitions moved on: the fence refuses it."""
    zombie = start_ingest(pipeline)
    freeze_waiting_for("sensor_data", pipeline, zombie)
    successor = start_ingest(pipeline, wait=False)
    settle(pipeline, 1)  # by the successor, once the group has given up on the zombie
    pipeline.produce([{"ts": SEED_TS + 1, "sensor_id": 1}])
    settle(pipeline, 2)
    zombie.thaw()
    wait_for_value(
        lambda: zombie.metric("sensorlog_ingest_fenced_batches_total"), 1.0, deadline=30, what="the fenced batches"
    )
    assert successor.stop() == 0
    pipeline.produce([{"ts": SEED_TS + 2, "sensor_id": 1}])
    settle(pipeline, 3)  # by the former zombie, which is a member like any other again


def test_process_frozen_before_its_commit_holds_nobody_up_for_long(
    pipeline: Pipeline, start_ingest: StartService
) -> None:
    """Its offsets are locked, the successor needs them: the database ends a session that is idle in a transaction."""
    zombie = start_ingest(pipeline)
    freeze_waiting_for("ingest_offsets", pipeline, zombie)
    successor = start_ingest(pipeline, wait=False)
    settle(pipeline, 1)
    zombie.thaw()
    zombie.wait_ready()
    assert successor.stop() == 0
    pipeline.produce([{"ts": SEED_TS + 1, "sensor_id": 1}])
    settle(pipeline, 2)
