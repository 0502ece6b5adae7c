"""Fixtures of every integration test: a real broker, a real database, pipelines and processes.

    broker          KafkaBroker, one a session: bootstrap_servers, admin(), producer(), produce(), create_topic(),
                    stopped(), killed(), frozen(), restart()
    database        Database, one a session: uri, connect(), execute(), cut_connections(), stopped(), small_disk(), ...
    network         Network, one a session, that ties this host to containers by cables that can be pulled
    replicated      ReplicatedDatabase, one a test: primary, standby, uri of both, fail_over(), ...
    replica         Replicated, a pipeline that is read from a standby of the whole session, see support.replicas
    short_lived     the same with servers of its own, for a test that breaks them
    make_pipeline   make_pipeline(partitions=3, measurements=(...), ...) -> Pipeline with topics, schema and files;
                    the keywords are PipelineOptions' fields
    pipeline        make_pipeline() with defaults
    api_server      ApiServer, one a module: knows pipelines, and the operator's account with the chart's rights
    operator        ServiceProcess, one a module: the operator at work on that API server
    start_service   start_service("sensorlog_query", pipeline, SENSORLOG_PORT="50051") -> ServiceProcess, a real
                    `python -m` process with the environment that the operator would give it; not waited for
    start_ingest    start_ingest(pipeline) -> ServiceProcess that is ready

A Pipeline has produce(), announce() (sensors), query() (SQL in its schema), count(), counts(), dead_letters(),
insert_readings() (rows without ingest), config, schema, environment. A ServiceProcess has wait_ready(), stop(),
kill(), send(signal), metric(), get("/readyz"), logs; what still runs at the end of a test is stopped.

Names of topics, groups and schemas are unique to each pipeline, so tests share the containers without seeing each
other. A test that takes a container away uses the context managers, which bring it back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.apiserver import ApiServer
from support.containers import ContainerEngine, free_port
from support.database import Database, ReplicatedDatabase, database_spec, database_uri, replicated_database
from support.kafka import KafkaBroker, broker_spec
from support.network import BROKER_HOST, Network
from support.operated import operated_api_server, start_operator
from support.pipelines import MakePipeline, Pipeline, PipelineOptions
from support.pipelines import make_pipeline as provision_pipeline
from support.processes import ServiceProcess, StartService
from support.replicas import Replicated, make_replicated


@pytest.fixture(scope="session")
def engine() -> Iterator[ContainerEngine]:
    """Docker, without what dead runs left behind."""
    engine = ContainerEngine()
    engine.remove_leftovers()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def network(engine: ContainerEngine) -> Iterator[Network]:
    """Make a network for the whole session; containers are connected to it by those who need it."""
    with engine.network() as network:
        yield network


@pytest.fixture(scope="session")
def broker(engine: ContainerEngine, network: Network) -> Iterator[KafkaBroker]:
    """Apache Kafka in a container, for the whole session."""
    port = free_port()
    with engine.running(broker_spec(port, network_address=network.address(BROKER_HOST))) as container:
        broker = KafkaBroker(f"127.0.0.1:{port}", container)
        broker.wait_ready()
        yield broker


@pytest.fixture(scope="session")
def database(engine: ContainerEngine) -> Iterator[Database]:
    """TimescaleDB in a container, for the whole session."""
    port = free_port()
    with engine.running(database_spec(port)) as container:
        database = Database(database_uri(port), container)
        database.wait_ready()
        yield database


@pytest.fixture
def replicated(engine: ContainerEngine) -> Iterator[ReplicatedDatabase]:
    """Start a primary and a standby of one's own: a failover cannot be undone."""
    with replicated_database(engine) as replicated:
        yield replicated


@pytest.fixture(scope="session")
def pair(engine: ContainerEngine) -> Iterator[ReplicatedDatabase]:
    """Start a primary and a standby for the tests that leave them as they were."""
    with replicated_database(engine) as pair:
        yield pair


@pytest.fixture
def replica(broker: KafkaBroker, pair: ReplicatedDatabase, tmp_path: Path, start_service: StartService) -> Replicated:
    """Return a pipeline read from the standby that has one reading."""
    return make_replicated(broker, pair, tmp_path, start_service)


@pytest.fixture
def short_lived(
    broker: KafkaBroker, replicated: ReplicatedDatabase, tmp_path: Path, start_service: StartService
) -> Replicated:
    """Return the same with servers of its own, for a test that breaks them."""
    return make_replicated(broker, replicated, tmp_path, start_service)


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Yield an API server that knows pipelines, and where the operator has an account with the chart's rights."""
    with operated_api_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def operator(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Yield the operator, as a process."""
    process = start_operator(api_server, tmp_path_factory.mktemp("operator"))
    yield process.wait_ready()
    process.clean_up()


@pytest.fixture
def make_pipeline(broker: KafkaBroker, database: Database, tmp_path: Path) -> Iterator[MakePipeline]:
    """Return a factory of pipelines."""
    made: list[Pipeline] = []

    def make(**options: Any) -> Pipeline:
        made.append(provision_pipeline(broker, database, tmp_path, PipelineOptions(**options)))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.drop()


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """Return the default pipeline: one partition, temperature and cpu, seconds."""
    return make_pipeline()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Return a function that starts services as the operator's Deployments do.

    It depends on `make_pipeline` so that processes end before their schema is dropped.
    """
    started: list[ServiceProcess] = []

    def start(module: str, pipeline: Pipeline, **settings: str) -> ServiceProcess:
        log = tmp_path / f"{module}-{len(started)}.log"
        started.append(ServiceProcess(module, {**pipeline.environment, **settings}, log))
        return started[-1]

    yield start
    for process in started:
        process.clean_up()


@pytest.fixture
def start_ingest(start_service: StartService) -> StartService:
    """Return a function that starts an ingest process and waits until it is ready."""

    def start(pipeline: Pipeline, *, wait: bool = True, **settings: str) -> ServiceProcess:
        process = start_service("sensorlog_ingest", pipeline, **settings)
        return process.wait_ready() if wait else process

    return start
