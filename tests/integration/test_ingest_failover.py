"""A database that fails over, and a COMMIT without an answer: the stored offsets decide, not what ingest remembers."""

from pathlib import Path

import pytest

from support.database import Database, ReplicatedDatabase
from support.kafka import KafkaBroker
from support.outages import DATABASE_AWAY, stored_once, wait_for_progress, wait_settled, wait_unready
from support.pipelines import MakePipeline, Pipeline, PipelineOptions
from support.pipelines import make_pipeline as provision_pipeline
from support.processes import StartService
from support.proxy import CommitLoss, CommitProxy
from support.streams import unique_readings
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

FLOW_SECONDS = 6
LOSSES = 5
FENCED = "sensorlog_ingest_fenced_batches_total"


@pytest.fixture
def failing_over(broker: KafkaBroker, replicated: ReplicatedDatabase, tmp_path: Path) -> Pipeline:
    """Return a pipeline on the replicated database; operator, ingest and test have the uri that names both hosts."""
    return provision_pipeline(broker, replicated.writable, tmp_path, PipelineOptions(partitions=3))


def test_primary_killed_in_mid_stream(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """Ingest waits for a primary, finds the promoted standby by its uri, and goes on from the offsets there."""
    replicated.replicate_synchronously()
    process = start_ingest(failing_over)
    with stored_once(failing_over, seconds=FLOW_SECONDS):
        replicated.kill_primary()
        wait_unready(process, DATABASE_AWAY)
        replicated.promote()
        process.wait_ready()
        wait_for_progress(failing_over)


@pytest.mark.parametrize("loss", CommitLoss)
def test_connection_lost_at_commit(
    loss: CommitLoss, make_pipeline: MakePipeline, database: Database, start_ingest: StartService
) -> None:
    """Whether it was committed is read from the offsets: what was is not written again, what was not is."""
    pipeline = make_pipeline(partitions=3)
    with CommitProxy("127.0.0.1", database.port) as proxy:
        pipeline.write_files(database.uri_at("127.0.0.1", proxy.port))
        process = start_ingest(pipeline)
        with stored_once(pipeline, seconds=2 * FLOW_SECONDS):
            for _ in range(LOSSES):
                proxy.lose_commit(loss)
                wait_for_progress(pipeline)
        assert process.metric("sensorlog_ingest_reconnects_total") >= LOSSES
        assert process.metric("sensorlog_ingest_rows_total") == pipeline.count()


def test_answer_to_commit_lost_with_the_primary(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """The standby has what was committed in the primary's last moment, and its offsets say so."""
    replicated.replicate_synchronously()
    with CommitProxy("127.0.0.1", replicated.primary.port) as proxy:
        failing_over.write_files(replicated.uri_through(proxy.port))
        process = start_ingest(failing_over)
        with stored_once(failing_over, seconds=FLOW_SECONDS):
            proxy.lose_commit(CommitLoss.ANSWER, replicated.kill_primary)
            replicated.promote()
            wait_for_progress(failing_over)
        assert process.metric(FENCED) == 0


def test_commit_that_still_waits_for_its_standby(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """Its connection is lost, nobody sees it yet, and it cannot be undone: who asks for the offsets waits for it."""
    replicated.replicate_synchronously()
    first, second = unique_readings(2, per_message=1)
    with CommitProxy("127.0.0.1", replicated.primary.port) as proxy:
        failing_over.write_files(replicated.uri_through(proxy.port))
        process = start_ingest(failing_over)
        failing_over.produce([first])
        wait_settled(failing_over, 1)
        with replicated.standby.frozen():
            lost = proxy.plan_loss(CommitLoss.WAIT)
            failing_over.produce([second])
            assert lost.wait(30)
            wait_for_value(
                lambda: replicated.waits_of_sessions("sensorlog-ingest"),
                {"SyncRep", "transactionid"},
                deadline=30,
                what="what the two sessions wait for",
            )
            assert failing_over.count() == 1
        wait_settled(failing_over, 2)
        wait_for_value(lambda: process.metric("sensorlog_ingest_rows_total"), 2.0, deadline=10, what="the stored rows")
        assert process.metric(FENCED) == 0


def test_failover_that_loses_commits_in_mid_stream(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """Asynchronous replication may lose what was committed: the new primary's offsets are older, and are read from."""
    process = start_ingest(failing_over)
    with stored_once(failing_over, seconds=FLOW_SECONDS):
        wait_for_progress(failing_over)
        replicated.stop_replication()
        wait_for_progress(failing_over)
        replicated.fail_over()
        wait_until(lambda: process.metric(FENCED), deadline=60, what="a batch to be fenced")
        wait_for_progress(failing_over)


def test_failover_that_loses_commits_of_a_quiet_pipeline(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """No further message is needed to find out that readings have gone, and to read them again."""
    process = start_ingest(failing_over)
    replicated.stop_replication()
    failing_over.produce(unique_readings(1000, per_message=10))
    wait_settled(failing_over, 1000)
    replicated.fail_over()
    assert failing_over.counts() == (0, 0)
    wait_settled(failing_over, 1000)
    process.wait_ready()
