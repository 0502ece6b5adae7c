"""Many pipelines at rest: they are looked at together, with few requests, and no change escapes that look."""

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from sensorlog_operator.models import default_schema
from support.apiserver import ApiServer, Object
from support.containers import ContainerEngine
from support.database import Database
from support.kafka import KafkaBroker
from support.kubelet import Kubelet
from support.operated import USER, OperatedPipeline, login, operated_api_server, start_operator
from support.processes import ServiceProcess
from support.waiting import wait_until

pytestmark = pytest.mark.integration

PIPELINES = 6
RESYNC_SECONDS = 3
NOTICED_SECONDS = 20
"""A few resyncs, on a machine that has other things to do."""

RARELY_ASKED = (" ", " scaledobjects", " triggerauthentications", " clusterrolebindings")
"""Of KEDA's kinds whether they are there, and of one binding what it says: as often for a thousand as for one."""

APPS, CORE = "/apis/apps/v1", "/api/v1"
KAFKA_REQUESTS = "sensorlog_operator_kafka_requests_total"
RECONCILES = "sensorlog_operator_reconciles_total"


@dataclass(frozen=True)
class Fleet:
    """Pipelines of one namespace, all ready, and who keeps them so."""

    server: ApiServer
    database: Database
    broker: KafkaBroker
    operator: ServiceProcess
    pipelines: list[OperatedPipeline]

    def schema(self, pipeline: OperatedPipeline) -> str:
        """Return the schema of a pipeline."""
        return default_schema(pipeline.namespace, pipeline.name)

    def wait_ready(self) -> None:
        """Wait until all are ready."""
        for pipeline in self.pipelines:
            pipeline.wait_condition("Ready", "True", "Ready", deadline=90)

    def wait_resyncs(self, count: int) -> None:
        """Wait until each pipeline was looked at so many times more."""
        enough = self.operator.metric(RECONCILES) + count * len(self.pipelines)
        wait_until(lambda: self.operator.metric(RECONCILES) >= enough, deadline=60, what=f"{count} resyncs")


@pytest.fixture(scope="module")
def fleet(
    engine: ContainerEngine, broker: KafkaBroker, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Yield a fleet whose Deployments say that their pods are ready."""
    with operated_api_server(engine) as server, Kubelet(server):
        server.call("POST", f"{CORE}/namespaces", {"metadata": {"name": "plants"}})
        data = {"uri": base64.b64encode(login(database).uri.encode()).decode()}
        server.call("POST", f"{CORE}/namespaces/plants/secrets", {"metadata": {"name": "timescaledb"}, "data": data})
        operator = start_operator(
            server, tmp_path_factory.mktemp("operator"), SENSORLOG_RESYNC_SECONDS=str(RESYNC_SECONDS)
        )
        pipelines = [
            OperatedPipeline(server, broker, "plants", f"plant-{number}").create() for number in range(PIPELINES)
        ]
        made = Fleet(server, database, broker, operator.wait_ready(), pipelines)
        made.wait_ready()
        yield made
        for pipeline in pipelines:
            pipeline.delete()
        operator.clean_up()


def requests_of(fleet: Fleet, resyncs: int) -> tuple[Counter[str], float, int]:
    """Return what resyncs ask: of the API server by verb and resource, of Kafka, and sessions of the database."""
    sessions = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
    asked, kafka = len(fleet.server.requests(USER)), fleet.operator.metric(KAFKA_REQUESTS)
    ((before,),) = fleet.database.execute(sessions)
    fleet.wait_resyncs(resyncs)
    ((after,),) = fleet.database.execute(sessions)
    events = fleet.server.requests(USER)[asked:]
    counted = Counter(f"{event['verb']} {event.get('objectRef', {}).get('resource', '')}" for event in events)
    return counted, fleet.operator.metric(KAFKA_REQUESTS) - kafka, after - before


def reads(api: Counter[str]) -> set[str]:
    """Return what was read of pipelines and what belongs to them. Whether there is KEDA is asked now and then."""
    return {name for name in api if name.startswith(("get ", "list ")) and not name.endswith(RARELY_ASKED)}


def test_at_rest_nothing_is_asked_for_each_pipeline(fleet: Fleet) -> None:
    """What a resync asks is as much for six as for one, and no object is read that a watch told of."""
    # What the last change has stirred up comes to rest first.
    wait_until(lambda: requests_of(fleet, 1), lambda asked: not reads(asked[0]), deadline=60, what="rest")
    resyncs = 4
    api, kafka, sessions = requests_of(fleet, resyncs)
    at_most = resyncs + 2  # one may have begun before, one after
    assert reads(api) == set()
    assert api["patch sensorlogpipelines"] == 0, "nothing flows, so no figure in status changes"
    assert kafka <= at_most * 4, "topics, configurations, first and last offsets"
    assert sessions <= at_most + 1, "one connection a resync, and ours"


def test_figures_come_into_status_all_the_same(fleet: Fleet) -> None:
    """What ingest stores shows within a resync."""
    first, other = fleet.pipelines[:2]
    fleet.database.execute(
        f"INSERT INTO {fleet.schema(first)}.ingest_batches (rows, first_time, last_time) VALUES (6000, now(), now())"
    )
    wait_until(lambda: first.status().get("rowsPerSecond"), lambda rate: rate == 100, deadline=NOTICED_SECONDS, what="")
    assert other.status()["rowsPerSecond"] == 0


def drift_of_topic(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Change a topic's retention; return whether it is back."""
    topic = ConfigResource(ResourceType.TOPIC, pipeline.get()["spec"]["kafka"]["readings"]["topic"])
    admin = fleet.broker.admin()
    entry = ConfigEntry("retention.ms", "1000000", incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource(topic.restype, topic.name, incremental_configs=[entry])]
    ).values():
        future.result(10)

    def is_back() -> bool:
        (described,) = admin.describe_configs([topic]).values()
        return bool(described.result(10)["retention.ms"].value == "604800000")

    return is_back


def drift_of_index(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Drop an index; return whether it is back."""
    schema = fleet.schema(pipeline)
    index = "sensor_data_sensor_id_time_idx"
    fleet.database.execute(f"DROP INDEX {schema}.{index}")
    look = f"SELECT count(*) FROM pg_indexes WHERE schemaname = '{schema}' AND indexname = '{index}'"
    return lambda: fleet.database.execute(look) == [(1,)]


def drift_of_privilege(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Let the reader write; return whether it may no more."""
    schema, login_name = fleet.schema(pipeline), pipeline.status()["credentials"]["query"]
    group = login_name.removesuffix("_a").removesuffix("_b")
    fleet.database.execute(f"GRANT DELETE ON {schema}.sensor_data TO {group}")
    look = f"SELECT has_table_privilege('{group}', '{schema}.sensor_data', 'DELETE')"
    return lambda: fleet.database.execute(look) == [(False,)]


def drift_of_password(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Shut a login out; return whether it may come in again."""
    name = pipeline.status()["credentials"]["ingest"]
    fleet.database.execute(f"ALTER ROLE {name} NOLOGIN")
    look = f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{name}'"
    return lambda: fleet.database.execute(look) == [(True,)]


def drift_of_deployment(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Change an image; return whether it is back."""
    path = f"{APPS}/namespaces/{pipeline.namespace}/deployments/{pipeline.name}-ingest"
    container = {"name": "ingest", "image": "another"}
    fleet.server.call(
        "PATCH",
        path,
        {"spec": {"template": {"spec": {"containers": [container]}}}},
        kind="application/strategic-merge-patch+json",
    )
    return lambda: '"another"' not in json.dumps(fleet.server.call("GET", path)["spec"])


def drift_of_existence(fleet: Fleet, pipeline: OperatedPipeline) -> Callable[[], bool]:
    """Delete a child; return whether it is there again."""
    path = f"{CORE}/namespaces/{pipeline.namespace}/services/{pipeline.name}-query"
    fleet.server.call("DELETE", path)
    return lambda: fleet.server.find(path) is not None


DRIFTS = (
    drift_of_topic,
    drift_of_index,
    drift_of_privilege,
    drift_of_password,
    drift_of_deployment,
    drift_of_existence,
)


@pytest.mark.parametrize("change", DRIFTS)
def test_drift_is_found_and_set_back(
    fleet: Fleet, change: Callable[[Fleet, OperatedPipeline], Callable[[], bool]]
) -> None:
    """Whoever does not tell of changes, such as the broker and the database, is looked at in each resync."""
    pipeline = fleet.pipelines[2]
    is_back = change(fleet, pipeline)
    wait_until(is_back, deadline=NOTICED_SECONDS, what="the drift to be set back")
    pipeline.wait_condition("Ready", "True", "Ready")


def test_one_that_cannot_be_looked_at_leaves_the_others(fleet: Fleet) -> None:
    """A table that is locked for long: the figures of all others go on."""
    locked, other = fleet.pipelines[3:5]
    with fleet.database.connect() as connection, contextlib.ExitStack() as stack:
        stack.enter_context(connection.transaction())
        connection.execute(f"LOCK {fleet.schema(locked)}.ingest_batches IN ACCESS EXCLUSIVE MODE".encode())
        fleet.database.execute(
            f"INSERT INTO {fleet.schema(other)}.ingest_batches (rows, first_time, last_time) VALUES (600, now(), now())"
        )
        wait_until(lambda: other.status()["rowsPerSecond"] == 10, deadline=NOTICED_SECONDS, what="the other's figures")
    fleet.wait_ready()


def test_a_change_of_the_resource_does_not_wait_for_a_resync(fleet: Fleet) -> None:
    """Nor is it lost where it comes while the pipeline is looked at: the last of many holds."""
    pipeline = fleet.pipelines[5]

    def partitions(body: Object) -> int:
        return int(body["status"]["partitions"])

    for count in range(5, 12):
        pipeline.change(kafka={"readings": {"partitions": count}})
    wait_until(
        lambda: partitions(pipeline.get()), lambda seen: seen == 11, deadline=NOTICED_SECONDS, what="11 partitions"
    )
    body = pipeline.get()
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
