"""A disk of the database that is full is an outage like any other: no row is at fault."""

import pytest

from support.database import Database
from support.outages import DATABASE_AWAY, stored_once, wait_for_progress, wait_unready
from support.pipelines import MakePipeline
from support.processes import StartService
from support.waiting import wait_until

pytestmark = pytest.mark.integration


def test_disk_full(make_pipeline: MakePipeline, database: Database, start_ingest: StartService) -> None:
    """COPY fails with disk_full (53100): ingest waits, takes no row for bad, and goes on when there is space."""
    pipeline = make_pipeline(partitions=3)
    process = start_ingest(pipeline)
    with database.small_disk() as disk:
        pipeline.query("SELECT attach_tablespace(%s, 'sensor_data')", [disk.tablespace])
        with stored_once(pipeline):
            with disk.full():
                wait_unready(process, f"{DATABASE_AWAY}: could not extend file")
                assert process.metric("sensorlog_ingest_database_up") == 0
                wait_until(lambda: process.metric("sensorlog_ingest_pauses_total"), deadline=30, what="a pause")
            process.wait_ready()
            wait_for_progress(pipeline)
        assert '"state": "53100"' in process.logs
        assert pipeline.dead_letters() == []
        pipeline.drop()
