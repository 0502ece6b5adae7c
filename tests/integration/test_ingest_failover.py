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
from support.waiting import wait_until

pytestmark = pytest.mark.integration

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
    with stored_once(failing_over):
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
        with stored_once(pipeline):
            for _ in range(10):
                proxy.lose_commit(loss)
                wait_for_progress(pipeline)
        assert process.metric("sensorlog_ingest_reconnects_total") >= 10
        assert process.metric(FENCED) == 0
        assert process.metric("sensorlog_ingest_rows_total") == pipeline.count()


def test_answer_to_commit_lost_with_the_primary(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """The standby has what was committed in the primary's last moment, and its offsets say so."""
    replicated.replicate_synchronously()
    with CommitProxy("127.0.0.1", replicated.primary.port) as proxy:
        failing_over.write_files(replicated.uri_through(proxy.port))
        process = start_ingest(failing_over)
        with stored_once(failing_over):
            proxy.lose_commit(CommitLoss.ANSWER, before_cut=replicated.kill_primary)
            replicated.promote()
            wait_for_progress(failing_over)
        assert process.metric(FENCED) == 0


def test_failover_that_loses_commits_in_mid_stream(
    failing_over: Pipeline, replicated: ReplicatedDatabase, start_ingest: StartService
) -> None:
    """Asynchronous replication may lose what was committed: the new primary's offsets are older, and are read from."""
    process = start_ingest(failing_over)
    with stored_once(failing_over):
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
