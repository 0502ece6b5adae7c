"""A broker without the consumer protocol of KIP-848."""

from pathlib import Path

import pytest

from support.containers import ContainerEngine, free_port
from support.database import Database
from support.kafka import KafkaBroker, broker_spec
from support.pipelines import PipelineOptions, make_pipeline
from support.processes import StartService
from support.streams import flowing, unique_readings
from support.waiting import wait_until

pytestmark = pytest.mark.integration

CLASSIC_ONLY = {"KAFKA_GROUP_COORDINATOR_REBALANCE_PROTOCOLS": "classic"}


def test_classic_protocol_is_used_where_the_broker_has_no_other(
    engine: ContainerEngine, database: Database, tmp_path: Path, start_ingest: StartService
) -> None:
    """Two replicas share the partitions by the cooperative protocol, and each reading is stored once."""
    port = free_port()
    with engine.running(broker_spec(port, CLASSIC_ONLY)) as container:
        broker = KafkaBroker(f"127.0.0.1:{port}", container)
        broker.wait_ready()
        pipeline = make_pipeline(broker, database, tmp_path, PipelineOptions(partitions=4))
        first = start_ingest(pipeline)
        with flowing(pipeline, unique_readings(20_000, per_message=10), per_second=200):
            second = start_ingest(pipeline)
            wait_until(
                lambda: [p.metric("sensorlog_ingest_assigned_partitions") for p in (first, second)],
                lambda assigned: all(assigned) and sum(assigned) == 5,
                deadline=60,
                what="the partitions to be shared",
            )
            assert second.stop() == 0
        wait_until(pipeline.count, lambda stored: stored >= 20_000, deadline=60, what="20,000 readings")
        assert pipeline.counts() == (20_000, 20_000)
        assert '"protocol": "classic"' in first.logs
        assert first.stop() == 0
        pipeline.drop()
