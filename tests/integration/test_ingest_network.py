"""A network that swallows packets is noticed within bounded waits, and costs time, never a reading."""

from dataclasses import replace

import pytest

from support.database import PORT, Database
from support.kafka import NETWORK_PORT, KafkaBroker
from support.network import BROKER_HOST, DATABASE_HOST, Cable, Network
from support.outages import BROKER_AWAY, DATABASE_AWAY, stored_once, wait_for_progress, wait_unready
from support.pipelines import MakePipeline, Pipeline
from support.processes import StartService

pytestmark = pytest.mark.integration

NOTICED_SECONDS = 40
"""TCP gives up on the database after 20 to 25 s, see DEFAULTS in sensorlog_ingest.database; then a retry must fail."""

BROKER_NOTICED_SECONDS = 60
"""A question that is not answered ends the connection; then connecting anew has to fail, which takes librdkafka 30 s
(socket.connection.setup.timeout.ms)."""


@pytest.fixture(scope="module")
def database_cable(network: Network, database: Database) -> Cable:
    """Tie the database to the network."""
    return network.connect(database.container, DATABASE_HOST)


@pytest.fixture(scope="module")
def broker_cable(network: Network, broker: KafkaBroker) -> Cable:
    """Tie the broker to the network."""
    return network.connect(broker.container, BROKER_HOST)


@pytest.fixture
def behind_database_cable(make_pipeline: MakePipeline, database: Database, database_cable: Cable) -> Pipeline:
    """Return a pipeline whose ingest reaches the database by the cable; the test itself does not need it."""
    pipeline = make_pipeline(partitions=3)
    pipeline.write_files(database.uri_at(database_cable.address, PORT))
    return pipeline


@pytest.fixture
def behind_broker_cable(make_pipeline: MakePipeline, broker_cable: Cable) -> Pipeline:
    """Return a pipeline whose ingest reaches the broker by the cable; the test itself does not need it."""
    pipeline = make_pipeline(partitions=3)
    kafka = pipeline.config.kafka.model_copy(update={"bootstrap_servers": f"{broker_cable.address}:{NETWORK_PORT}"})
    pipeline = replace(pipeline, config=pipeline.config.model_copy(update={"kafka": kafka}))
    pipeline.write_files(pipeline.database.uri)
    return pipeline


def test_database_cut_off(behind_database_cable: Pipeline, database_cable: Cable, start_ingest: StartService) -> None:
    """Nobody says goodbye: ingest gives the connection up by itself, says so, and goes on when the network is back."""
    pipeline = behind_database_cable
    process = start_ingest(pipeline)
    with stored_once(pipeline):
        with database_cable.pulled():
            wait_unready(process, DATABASE_AWAY, deadline=NOTICED_SECONDS)
            assert process.metric("sensorlog_ingest_database_up") == 0
        process.wait_ready()
        wait_for_progress(pipeline)
    assert process.metric("sensorlog_ingest_fenced_batches_total") == 0


def test_broker_cut_off(behind_broker_cable: Pipeline, broker_cable: Cable, start_ingest: StartService) -> None:
    """Meanwhile the group takes the partitions away; ingest joins it again and reads on from the stored offsets."""
    pipeline = behind_broker_cable
    process = start_ingest(pipeline)
    with stored_once(pipeline):
        with broker_cable.pulled():
            wait_unready(process, BROKER_AWAY, deadline=BROKER_NOTICED_SECONDS)
        process.wait_ready()
    assert process.is_running
