"""A battery of resources that the API server takes and that cannot be as they say: what each is told.

Every one gets a condition with a reason of its own, words that name what to do, and a Warning Event of the same reason,
which is what `kubectl describe` shows. None is a bug of the operator, none touches what is another's, and none is in
the way of the others: all are there at the same time.
"""

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import ConfigResource, ResourceType

from support.apiserver import ApiServer, Object
from support.containers import free_port
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import Login, OperatedPipeline, login
from support.processes import ServiceProcess
from support.waiting import wait_until

pytestmark = pytest.mark.integration

SECONDS = 60
CORE, APPS = "/api/v1", "/apis/apps/v1"
CALM = {"ApprovalPending"}
"""Reasons that need a person and are no trouble: their Events are Normal."""


@dataclass
class World:
    """What a case finds, and a namespace of its own in it."""

    server: ApiServer
    broker: KafkaBroker
    database: Database
    user: Login
    namespace: str

    @property
    def schema(self) -> str:
        """The schema of the case's pipeline."""
        return self.pipeline().schema

    @property
    def topic(self) -> str:
        """Its topic of readings."""
        return self.pipeline().topic

    def pipeline(self, name: str = "plant") -> OperatedPipeline:
        """Return a pipeline of the namespace."""
        return OperatedPipeline(self.server, self.broker, self.namespace, name)

    def secret(self, name: str, **values: str) -> None:
        """Create a Secret."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        path = f"{CORE}/namespaces/{self.namespace}/secrets"
        self.server.call("POST", path, {"metadata": {"name": name}, "data": data})

    def uri(self, **parts: Any) -> str:
        """Return the database's URI with other parts."""
        parsed = psycopg.conninfo.conninfo_to_dict(self.user.uri)
        merged: dict[str, Any] = {**parsed, **parts}
        return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**merged)

    def execute(self, *statements: str) -> None:
        """Run SQL as the user of the Secret, in a schema that is there already; {s} is its name."""
        with psycopg.connect(self.user.uri, autocommit=True) as connection:
            for statement in ("CREATE SCHEMA IF NOT EXISTS {s}", *statements):
                connection.execute(statement.replace("{s}", self.schema).encode())

    def topic_exists(self, partitions: int, **config: str) -> None:
        """Make the topic of readings by other hands than the operator's."""
        self.broker.create_topic(self.topic, partitions, {key.replace("_", "."): v for key, v in config.items()})

    def stranger(self, api: str, plural: str, body: Object) -> None:
        """Create an object that belongs to somebody else."""
        self.server.call("POST", f"{api}/namespaces/{self.namespace}/{plural}", body)


Prepare = Callable[[World], Object | None]
"""Makes what the case finds; may return more of the resource's spec."""


def nothing(_world: World) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """One resource, and what it is to be told."""

    condition: str
    reason: str
    said: str
    """Words of the message that say where the trouble is or what to do."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    prepare: Prepare = nothing
    status: str = "False"


def connected_by(name: str, **ref: str) -> dict[str, Any]:
    """Return a spec that names a Secret for the database."""
    return {"timescale": {"connectionSecretRef": {"name": name, **ref}}}


def other_uri(**parts: Any) -> Prepare:
    """Return what makes the Secret `other` with other parts of the URI."""
    return lambda world: world.secret("other", uri=world.uri(**parts))


def table(columns: str, name: str = "sensor_data") -> Prepare:
    """Return what makes a table before the operator looks."""
    return lambda world: world.execute(f"CREATE TABLE {{s}}.{name} ({columns})")


def guest(world: World) -> None:
    """Make a user who may do nothing, in the Secret `other`."""
    name = f"guest_{secrets.token_hex(4)}"
    world.database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'guest'")
    world.secret("other", uri=world.uri(user=name, password="guest"))  # noqa: S106 -- of a role that this test makes


def older_pipeline(world: World) -> None:
    """Create a pipeline that is older, with the same topics and a schema of its own."""
    world.pipeline("older").create(kafka=topics_of(world), timescale={"schema": f"{world.schema}_older"})
    world.pipeline("older").wait_condition("SchemaReady", "True", "Ready")
    created_second = world.pipeline("older").get()["metadata"]["creationTimestamp"]
    wait_until(lambda: now(world) > created_second, deadline=5, what="the next second, which tells older from younger")


def older_pipeline_with_the_schema(world: World) -> Object:
    """Create a pipeline that is older and has a schema; return a spec that names the same."""
    world.pipeline("older").create(timescale={"schema": world.schema})
    world.pipeline("older").wait_condition("SchemaReady", "True", "Ready")
    return {"timescale": {"schema": world.schema}}


def now(world: World) -> str:
    """Return the API server's time."""
    path = f"{CORE}/namespaces/{world.namespace}/configmaps?dryRun=All"
    return str(world.server.call("POST", path, {"metadata": {"name": "clock"}})["metadata"]["creationTimestamp"])


def topics_of(world: World) -> Object:
    """Return the topics of the case's pipeline as spec.kafka."""
    return {"readings": {"topic": world.topic}, "sensors": {"topic": world.topic.replace("readings", "sensors")}}


def owner_elsewhere(world: World) -> None:
    """Mark the schema as that of a pipeline of another cluster."""
    owner = '{"sensorlog.dev/owner": {"cluster": "another", "pipeline": "halls/north", "uid": "u-1"}}'
    world.execute(f"COMMENT ON SCHEMA {{s}} IS '{owner}'")


def readings(**fields: Any) -> dict[str, Any]:
    """Return a spec with these fields of the topic of readings."""
    return {"kafka": {"readings": fields}}


READINGS = "time timestamptz NOT NULL, sensor_id bigint NOT NULL, temperature float8"
SASL = {"protocol": "SASL_PLAINTEXT", "saslMechanism": "PLAIN", "credentialsSecretRef": {"name": "user"}}
TLS = {"tls": {"secretRef": {"name": "no-tls"}}}
TWICE = {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}
PEER = {"clients": [{"podSelector": {"matchLabels": {"a": "not a label!"}}}]}
STRANGE = {"metadata": {"name": "plant-pipeline"}, "data": {"mine": "yes"}}

CASES = {
    "no Secret": Case("SchemaReady", "SecretNotFound", "Create it with key 'uri'", connected_by("nowhere")),
    "no such key": Case(
        "SchemaReady",
        "SecretKeyMissing",
        "no value under key 'url'; it has uri",
        connected_by("timescaledb", key="url"),
    ),
    "empty key": Case(
        "SchemaReady", "SecretKeyMissing", "Add the key", connected_by("other"), lambda w: w.secret("other", uri="")
    ),
    "no URI": Case(
        "SchemaReady",
        "ConnectionUriInvalid",
        "write it like postgresql://",
        connected_by("other"),
        lambda w: w.secret("other", uri="nonsense"),
    ),
    "wrong password": Case(
        "SchemaReady",
        "DatabaseAuthenticationFailed",
        "Correct the Secret's uri",
        connected_by("other"),
        other_uri(password="wrong"),  # noqa: S106
    ),
    "no such database": Case(
        "SchemaReady",
        "DatabaseRejected",
        "Create it or correct the uri",
        connected_by("other"),
        other_uri(dbname="nowhere"),
    ),
    "no database server": Case(
        "SchemaReady",
        "DatabaseUnavailable",
        "the operator keeps trying",
        connected_by("other"),
        other_uri(port=free_port()),
    ),
    "no rights": Case(
        "SchemaReady", "DatabasePermissionDenied", "Grant CREATE on the database", connected_by("other"), guest
    ),
    "no Secret of the replica": Case(
        "AccessReady",
        "SecretNotFound",
        "spec.timescale.readConnectionSecretRef",
        {"timescale": {"readConnectionSecretRef": {"name": "replica"}}},
    ),
    "no certificate": Case("QueryReady", "SecretNotFound", "spec.query.tls.secretRef", {"query": TLS}),
    "no Kafka user": Case(
        "TopicReady", "SecretNotFound", "spec.kafka.security.credentialsSecretRef", {"kafka": {"security": SASL}}
    ),
    "no PEM": Case(
        "TopicReady",
        "KafkaCredentialsInvalid",
        "PEM",
        {"kafka": {"security": {"protocol": "SSL", "caSecretRef": {"name": "ca"}}}},
        lambda w: w.secret("ca", **{"ca.crt": "nonsense"}),
    ),
    "no broker": Case(
        "TopicReady",
        "KafkaUnavailable",
        "Check that the brokers",
        {"kafka": {"bootstrapServers": f"127.0.0.1:{free_port()}"}},
    ),
    "more copies than brokers": Case("TopicReady", "KafkaRejected", "eplication factor", readings(replicationFactor=5)),
    "unknown configuration": Case(
        "TopicReady", "KafkaRejected", "no.such.config", readings(config={"no.such.config": "1"})
    ),
    "another's topic": Case(
        "TopicReady", "TopicOwnedByAnotherPipeline", "/older. Name another topic", {}, older_pipeline
    ),
    "another's schema": Case(
        "SchemaReady", "SchemaOwnedByAnotherPipeline", "belongs to pipeline halls/north", {}, owner_elsewhere
    ),
    "more partitions than declared": Case(
        "TopicReady",
        "PartitionsCannotShrink",
        "Set spec.kafka.readings.partitions to 7 or more",
        {},
        lambda w: w.topic_exists(7),
    ),
    "fewer partitions than declared": Case(
        "PlanPending",
        "ApprovalPending",
        "from 3 to 4 partitions",
        {},
        lambda w: w.topic_exists(3),
        status="True",
    ),
    "a longer retention than declared": Case(
        "PlanPending",
        "ApprovalPending",
        "set retention.ms from -1 to 604800000",
        {},
        lambda w: w.topic_exists(4, retention_ms="-1"),
        status="True",
    ),
    "fewer copies than declared": Case(
        "TopicReady",
        "ReplicationFactorCannotChange",
        "set spec.kafka.readings.replicationFactor back",
        readings(replicationFactor=2),
        lambda w: w.topic_exists(4),
    ),
    "a column of another type": Case(
        "SchemaReady",
        "SchemaConflict",
        "sensor_data.cpu has type text, the pipeline needs double precision",
        {},
        table(f"{READINGS}, cpu text"),
    ),
    "a column that demands a value": Case(
        "SchemaReady",
        "SchemaConflict",
        "sensor_data.line must have a value, and the pipeline has none for it. Give it a default",
        {},
        table(f"{READINGS}, line text NOT NULL"),
    ),
    "a view": Case(
        "SchemaReady",
        "SchemaConflict",
        "sensors is a view, and the pipeline needs an ordinary table of that name. Rename it",
        {},
        lambda w: w.execute("CREATE VIEW {s}.sensors AS SELECT 1 AS id"),
    ),
    "a partitioned table": Case(
        "SchemaReady",
        "SchemaConflict",
        "sensor_data is a partitioned table",
        {},
        lambda w: w.execute(f"CREATE TABLE {{s}}.sensor_data ({READINGS}) PARTITION BY RANGE (time)"),
    ),
    "a hypertable by another column": Case(
        "SchemaReady",
        "SchemaConflict",
        "is a hypertable by column seen, and the pipeline needs one by time",
        {},
        lambda w: w.execute(
            f"CREATE TABLE {{s}}.sensor_data ({READINGS}, seen timestamptz DEFAULT now())",
            "SELECT create_hypertable('{s}.sensor_data', 'seen')",
        ),
    ),
    "a living pipeline's schema": Case(
        "SchemaReady", "SchemaOwnedByAnotherPipeline", "/older (uid", {}, older_pipeline_with_the_schema
    ),
    "no primary key": Case(
        "SchemaReady", "SchemaConflict", "lacks the primary key (id)", {}, table("id bigint, type text", "sensors")
    ),
    "a stranger's ConfigMap": Case(
        "IngestReady",
        "WorkloadRejected",
        "ConfigMap plant-pipeline exists and belongs to somebody else: delete it",
        {},
        lambda w: w.stranger(CORE, "configmaps", STRANGE),
    ),
    "requests above limits": Case(
        "IngestReady",
        "WorkloadRejected",
        "must be less than or equal to memory limit",
        {"ingest": {"resources": TWICE}},
    ),
    "a peer that is none": Case("IngestReady", "WorkloadRejected", "a valid label must", {"networkPolicy": PEER}),
    "no KEDA": Case("AutoscalingReady", "KedaMissing", "Install KEDA", {"ingest": {"autoscaling": {"maxReplicas": 2}}}),
}


MakeWorld = Callable[[], World]


@pytest.fixture(scope="module")
def make_world(
    api_server: ApiServer, operator: ServiceProcess, broker: KafkaBroker, database: Database
) -> Iterator[MakeWorld]:
    """Yield a factory of namespaces with the database's Secret."""
    user = login(database)
    made: list[World] = []

    def make() -> World:
        world = World(api_server, broker, database, user, f"battery-{secrets.token_hex(3)}")
        api_server.call("POST", f"{CORE}/namespaces", {"metadata": {"name": world.namespace}})
        world.secret("timescaledb", uri=user.uri)
        made.append(world)
        return world

    assert operator.is_running
    yield make
    for world in made:
        for name in ("plant", "older"):
            world.pipeline(name).delete()


@pytest.fixture(scope="module")
def worlds(make_world: MakeWorld) -> dict[str, World]:
    """Return the world of each case, with its resource created: all of them at once."""
    worlds = {name: make_world() for name in CASES}
    for name, case in CASES.items():
        more = case.prepare(worlds[name]) or {}
        worlds[name].pipeline().create(**{**case.spec, **more})
    return worlds


def events(pipeline: OperatedPipeline) -> set[tuple[str, str]]:
    """Return type and reason of each Event about a pipeline."""
    items = pipeline.server.call("GET", f"{CORE}/namespaces/{pipeline.namespace}/events")["items"]
    return {(one["type"], one["reason"]) for one in items if one["involvedObject"]["name"] == pipeline.name}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_is_told_with_a_reason_and_what_to_do(worlds: dict[str, World], name: str) -> None:
    """And by an Event."""
    case, pipeline = CASES[name], worlds[name].pipeline()
    condition = pipeline.wait_condition(case.condition, case.status, case.reason, deadline=SECONDS)
    assert case.said in condition["message"]
    wanted = ("Normal" if case.reason in CALM else "Warning", case.reason)
    wait_until(lambda: events(pipeline), lambda found: wanted in found, deadline=10, what=f"an Event {wanted}")


def test_what_is_a_strangers_stays_as_it_is(worlds: dict[str, World]) -> None:
    """Neither object, table, topic nor schema of another was taken over."""
    for name, case in CASES.items():
        worlds[name].pipeline().wait_condition(case.condition, case.status, case.reason, deadline=SECONDS)
    strange = api(worlds["a stranger's ConfigMap"], "configmaps", "plant-pipeline")
    assert strange["data"] == {"mine": "yes"}
    assert "ownerReferences" not in strange["metadata"]
    fewer, more = (worlds[f"{which} partitions than declared"] for which in ("fewer", "more"))
    described = fewer.broker.admin().list_topics(timeout=10).topics
    assert [len(described[world.topic].partitions) for world in (fewer, more)] == [3, 7]
    assert configuration(worlds["a longer retention than declared"], "retention.ms") == "-1"
    for name in ("a column of another type", "no primary key", "another's schema"):
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = %s"
        assert worlds[name].database.execute(tables, [worlds[name].schema])[0][0] <= 1


def test_what_waits_for_approval_is_done_once_it_has_it(worlds: dict[str, World]) -> None:
    """An adopted topic grows by the same hand that approves any plan."""
    world = worlds["fewer partitions than declared"]
    before = world.pipeline().wait_condition("TopicReady", "True", "Ready")
    assert "not all as declared" in before["message"]
    world.pipeline().approve("from 3 to 4 partitions")
    world.pipeline().wait_condition("PlanPending", "False", "NothingPending")
    after = world.pipeline().wait_condition("TopicReady", "True", "Ready")
    assert after["message"].endswith("are as declared.")
    assert len(world.broker.admin().list_topics(world.topic, timeout=10).topics[world.topic].partitions) == 4


def test_a_topic_and_tables_of_the_right_shape_are_adopted_with_all_that_is_in_them(make_world: MakeWorld) -> None:
    """What is missing is added, what is more is left alone, and no row or message is lost."""
    world = make_world()
    world.topic_exists(4, retention_ms="1000000", max_message_bytes="2000000")
    world.broker.produce(world.topic, [b"1", b"2"])
    world.execute(
        f"CREATE TABLE {{s}}.sensor_data ({READINGS}, line text)",
        "INSERT INTO {s}.sensor_data VALUES ('2026-01-01', 1, 20, 'north'), ('2026-02-01', 2, 21, NULL)",
        "CREATE TABLE {s}.theirs (id int)",
    )
    pipeline = world.pipeline().create()
    for condition in ("TopicReady", "SchemaReady"):
        pipeline.wait_condition(condition, "True", "Ready", deadline=SECONDS)
    rows = f"SELECT temperature, line, cpu FROM {world.schema}.sensor_data ORDER BY time"
    assert world.database.execute(rows) == [(20, "north", None), (21, None, None)]
    chunks = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_schema = %s"
    assert world.database.execute(chunks, [world.schema]) == [(2,)]
    assert (configuration(world, "retention.ms"), configuration(world, "max.message.bytes")) == ("604800000", "2000000")
    assert pipeline.status()["lag"] == 2


def test_a_deletion_leaves_what_others_keep_in_an_adopted_schema(make_world: MakeWorld) -> None:
    """The pipeline's own tables go, as was approved; the schema is nobody's again."""
    world = make_world()
    world.execute("CREATE TABLE {s}.theirs (id int)", "CREATE VIEW {s}.report AS SELECT * FROM {s}.theirs")
    pipeline = world.pipeline().create(deletionPolicy="Delete")
    pipeline.approve_deletion()
    for component in ("ingest", "query"):
        pipeline.wait_child(APPS, "deployments", component)
    world.server.call("DELETE", pipeline.path)
    for component in ("ingest", "query"):  # no garbage collector runs here, and foreground deletion waits for one
        path = f"{APPS}/namespaces/{world.namespace}/deployments/plant-{component}"
        world.server.merge(path, {"metadata": {"finalizers": None}})
    pipeline.delete()
    left = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v') ORDER BY 1"
    assert world.database.execute(left, [world.schema]) == [("report",), ("theirs",)]
    assert world.database.execute("SELECT obj_description(%s::regnamespace)", [world.schema]) == [(None,)]


def api(world: World, plural: str, name: str) -> Object:
    """Return an object of the core API."""
    return world.server.call("GET", f"{CORE}/namespaces/{world.namespace}/{plural}/{name}")


def configuration(world: World, key: str) -> str:
    """Return a configuration of the topic of readings."""
    resource = ConfigResource(ResourceType.TOPIC, world.topic)
    admin = world.broker.admin()  # kept until it has answered
    (described,) = admin.describe_configs([resource]).values()
    return str(described.result(10)[key].value)


def test_none_of_it_is_a_bug(worlds: dict[str, World], operator: ServiceProcess) -> None:
    """Not one reconcile ended by an error that nobody foresaw."""
    for world in worlds.values():
        wait_until(world.pipeline().status, deadline=SECONDS, what="a status")
        assert ("Warning", "InternalError") not in events(world.pipeline())
    assert "is a bug" not in operator.logs


def test_pods_beyond_the_partitions_are_told_to_have_nothing_to_read(make_world: MakeWorld) -> None:
    """Ingest is ready and so is the pipeline; the Warning says how many pods are of no use, and goes when none is."""
    pipeline = make_world().pipeline().create(ingest={"replicas": 6})
    pipeline.wait_child(APPS, "deployments", "ingest")
    pods_are_ready(pipeline, "ingest", 6)
    pods_are_ready(pipeline, "query", 1)
    condition = pipeline.wait_condition("IngestReady", "True", "PodsIdle")
    assert "6/6 pods ready. 2 of them have nothing to read" in condition["message"]
    assert "Set spec.ingest.replicas to 4 or fewer, or spec.kafka.readings.partitions to 6." in condition["message"]
    pipeline.wait_condition("Ready", "True", "Ready")
    wait_until(lambda: ("Warning", "PodsIdle") in events(pipeline), deadline=10, what="the Warning")
    pipeline.change(kafka={"readings": {"partitions": 6}})
    pods_are_ready(pipeline, "ingest", 6)
    pipeline.wait_condition("IngestReady", "True", "Ready")


def pods_are_ready(pipeline: OperatedPipeline, component: str, count: int) -> None:
    """Say what a Deployment's controller would say of its pods, once the operator wants so many."""
    deployment = wait_until(
        lambda: pipeline.deployment(component),
        lambda found: found is not None and found["spec"]["replicas"] == count,
        deadline=SECONDS,
        what=f"{count} {component} pods to be wanted",
    )
    assert deployment is not None
    status = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), count)
    path = f"{APPS}/namespaces/{pipeline.namespace}/deployments/{pipeline.name}-{component}/status"
    generation = deployment["metadata"]["generation"]
    pipeline.server.merge(path, {"status": {**status, "observedGeneration": generation}})
