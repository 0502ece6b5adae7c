"""Plan before apply, and drift: the operator as a process, with a real API server, broker and database."""

import base64
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

from sensorlog_cli import preview
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import UsageError
from sensorlog_cli.options import ClusterOptions
from support.apiserver import ADMIN_TOKEN, ApiServer, Object
from support.containers import free_port
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import (
    OperatedPipeline,
    kubeconfig,
    login,
    start_operator,
)
from support.processes import ServiceProcess
from support.waiting import wait_until

pytestmark = pytest.mark.integration

SECONDS = 45


@dataclass
class Plant:
    """A pipeline and the world that it is about."""

    pipeline: OperatedPipeline
    broker: KafkaBroker
    database: Database

    @property
    def schema(self) -> str:
        """The pipeline's schema."""
        return self.pipeline.schema

    @property
    def topic(self) -> str:
        """The topic of readings."""
        return self.pipeline.topic

    def has_topic(self) -> bool:
        """Return whether the topic of readings exists."""
        return self.topic in self.broker.admin().list_topics(timeout=10).topics

    def has_schema(self) -> bool:
        """Return whether the schema exists."""
        return bool(self.database.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [self.schema]))

    def columns(self) -> set[str]:
        """Return the columns of readings."""
        found = self.database.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = 'sensor_data'",
            [self.schema],
        )
        return {str(name) for (name,) in found}

    def partitions(self) -> int:
        """Return how many partitions readings have."""
        return len(self.broker.admin().list_topics(self.topic, timeout=10).topics[self.topic].partitions)

    def set_config(self, key: str, value: str) -> None:
        """Set a configuration of the topic of readings by hand."""
        entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=[entry])
        admin = self.broker.admin()
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(10)

    def execute(self, statement: str) -> None:
        """Run a statement by hand; {s} is the schema."""
        self.database.execute(statement.replace("{s}", self.schema))

    def merge_child(self, api: str, plural: str, name: str, patch: Object) -> None:
        """Change a child by hand."""
        path = f"{api}/namespaces/{self.pipeline.namespace}/{plural}/{self.pipeline.name}-{name}"
        self.pipeline.server.merge(path, patch)

    def delete_child(self, api: str, plural: str, name: str) -> None:
        """Delete a child by hand."""
        path = f"{api}/namespaces/{self.pipeline.namespace}/{plural}/{self.pipeline.name}-{name}"
        self.pipeline.server.call("DELETE", path)

    def wait_applied(self) -> "Plant":
        """Wait until status says that all of the current resource was applied."""
        wait_until(self._applied, deadline=SECONDS, what="the resource to be applied")
        return self

    def _applied(self) -> bool:
        body = self.pipeline.get()
        status = body.get("status", {})
        same = status.get("observedGeneration") == body["metadata"]["generation"]
        return same and "applied" in status and "plan" not in status

    def wait_drift(self, state: str, summary: str) -> Object:
        """Wait until status says that something was found to be changed, and what became of it."""

        def found() -> list[Object]:
            drift = self.pipeline.status().get("drift", ())
            return [
                one for one in drift if one["state"] == state and summary in one["summary"].replace(self.schema, "s")
            ]

        return wait_until(found, deadline=SECONDS, what=f"drift {state}: {summary}")[0]

    def events(self, reason: str) -> str:
        """Return what Events of this reason say, with their types."""
        items = self.pipeline.server.call("GET", f"/api/v1/namespaces/{self.pipeline.namespace}/events")["items"]
        return "\n".join(f"{e['type']} {e['message']}" for e in items if e["reason"] == reason)


MakePlant = Callable[..., Plant]


@pytest.fixture(scope="module")
def plan_port() -> int:
    """Return the port of 127.0.0.1 that the operator tells plans at."""
    return free_port()


@pytest.fixture(scope="module")
def operator(
    api_server: ApiServer, plan_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """Yield the operator, with the chart's rights."""
    directory = tmp_path_factory.mktemp("operator")
    process = start_operator(api_server, directory, SENSORLOG_PLAN_PORT=str(plan_port))
    yield process.wait_ready()
    process.clean_up()


@pytest.fixture
def make_plant(
    api_server: ApiServer, operator: ServiceProcess, broker: KafkaBroker, database: Database
) -> Iterator[MakePlant]:
    """Yield a factory of pipelines, each in a namespace of its own."""
    assert operator.is_running
    made: list[Plant] = []

    def make(**spec: Any) -> Plant:
        namespace = f"plants-{secrets.token_hex(3)}"
        api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        data = {"uri": base64.b64encode(login(database).uri.encode()).decode()}
        secret = {"metadata": {"name": "timescaledb"}, "data": data}
        api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        made.append(Plant(OperatedPipeline(api_server, broker, namespace), broker, database))
        made[-1].pipeline.create(**spec)
        return made[-1]

    yield make
    for plant in made:
        plant.pipeline.delete()


# Plans


def test_with_manual_approval_nothing_is_made_before_the_plan_is_approved(make_plant: MakePlant) -> None:
    """The plan says all of it, statements too; one approval is enough for all of it."""
    plant = make_plant(approval="Manual")
    plan = plant.pipeline.pending_plan("create topic", "create table", "create role", "create Deployment plant-ingest")
    assert (plant.has_topic(), plant.has_schema(), plant.pipeline.deployment("ingest")) == (False, False, None)
    (table,) = [action for action in plan["actions"] if action["summary"].endswith(".sensor_data")][:1]
    assert "CREATE TABLE" in table["detail"]
    for kind in ("TopicReady", "SchemaReady", "PlanPending"):
        plant.pipeline.wait_condition(kind, "True" if kind == "PlanPending" else "False", "ApprovalPending")
    plant.pipeline.wait_condition("IngestReady", "False", "Waiting")
    plant.pipeline.approve()
    for component in ("ingest", "query"):
        plant.pipeline.wait_child(APPS, "deployments", component)
    plant.wait_applied()
    assert plant.has_topic()
    assert plant.has_schema()
    plant.pipeline.wait_condition("PlanPending", "False", "NothingPending")


def test_a_change_waits_while_what_runs_goes_on(make_plant: MakePlant) -> None:
    """An approval is of one plan: the resource changed again meanwhile, and the first approval is of no use."""
    plant = make_plant(approval="Manual")
    plant.pipeline.approve()
    plant.wait_applied()
    plant.pipeline.change(kafka={"readings": {"partitions": 12}})
    first = plant.pipeline.pending_plan("from 4 to 12 partitions")
    assert "keys map to other partitions" in first["actions"][0]["risk"]
    plant.pipeline.wait_condition("TopicReady", "True", "Ready")

    plant.pipeline.change(measurements=[{"name": "temperature"}, {"name": "humidity"}])
    second = plant.pipeline.pending_plan("from 4 to 12 partitions", "humidity", "update ConfigMap plant-pipeline")
    plant.pipeline.server.merge(plant.pipeline.path, annotated(first["hash"]))
    plant.pipeline.wait_condition("PlanPending", "True", "ApprovalPending")
    assert (plant.partitions(), "humidity" in plant.columns()) == (4, False)

    assert second["hash"] != first["hash"]
    plant.pipeline.approve()
    plant.wait_applied()
    assert (plant.partitions(), "humidity" in plant.columns()) == (12, True)


def test_a_deletion_that_nobody_approved_leaves_the_data(make_plant: MakePlant) -> None:
    """Also with automatic approval: deletionPolicy Delete may destroy what cannot be brought back."""
    plant = make_plant(deletionPolicy="Delete")
    plan = plant.pipeline.pending_plan("when the resource is deleted")
    assert [action["dangerous"] for action in plan["actions"]] == [True]
    wait_until(plant.has_schema, deadline=SECONDS, what="all else to be done meanwhile")
    plant.pipeline.delete()
    assert plant.has_topic()
    assert plant.has_schema()


def test_an_approved_deletion_takes_the_data(make_plant: MakePlant) -> None:
    """As the plan said."""
    plant = make_plant(deletionPolicy="Delete")
    plant.pipeline.approve_deletion()
    wait_until(plant.has_schema, deadline=SECONDS, what="the schema")
    plant.pipeline.delete()
    wait_until(lambda: not plant.has_topic(), deadline=SECONDS, what="the topic to be gone")
    assert not plant.has_schema()


def test_a_plan_shows_no_secret(make_plant: MakePlant) -> None:
    """Neither the password of the database's user nor the ones that pods get."""
    plant = make_plant(approval="Manual")
    plant.pipeline.pending_plan("create role")
    secret = plant.pipeline.server.call("GET", f"/api/v1/namespaces/{plant.pipeline.namespace}/secrets/timescaledb")
    uri = base64.b64decode(secret["data"]["uri"]).decode()
    password = str(psycopg.conninfo.conninfo_to_dict(uri)["password"])
    assert password not in str(plant.pipeline.status())
    assert "PASSWORD" not in str(plant.pipeline.status())


# What applying a file would do


def asked(port: int, resource: Object) -> tuple[int, Object]:
    """Return what the operator answers about a resource, with the status of HTTP."""
    body, address = json.dumps(resource).encode(), f"http://127.0.0.1:{port}/plan"
    request = urllib.request.Request(address, body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.loads(e.read())


def dry_run(plant: Plant, **spec: Any) -> Object:
    """Return the resource with other fields as the API server would keep it."""
    return plant.pipeline.server.call(
        "PATCH", f"{plant.pipeline.path}?dryRun=All", {"spec": spec}, kind="application/merge-patch+json"
    )


def test_what_a_file_would_change_is_told_without_changing_it(make_plant: MakePlant, plan_port: int) -> None:
    """The hash is that of the plan which then waits: it can be approved in the file itself."""
    plant = make_plant()
    plant.wait_applied()
    change = {"kafka": {"readings": {"partitions": 12}}, "approval": "Manual"}
    status, answer = asked(plan_port, dry_run(plant, **change))
    assert (status, answer["problems"]) == (200, [])
    (grow,) = answer["actions"]
    assert (grow["nature"], grow["needsApproval"]) == ("Change", True)
    assert "from 4 to 12 partitions" in grow["summary"]
    assert "keys map to other partitions" in grow["risk"]
    assert plant.partitions() == 4
    assert plant.pipeline.get()["metadata"]["generation"] == 1

    plant.pipeline.change(**change)
    assert plant.pipeline.pending_plan("from 4 to 12 partitions")["hash"] == answer["hash"]


def test_what_a_new_file_would_make_is_told_and_claims_nothing(make_plant: MakePlant, plan_port: int) -> None:
    """A question makes no pipeline: neither is anything there afterwards, nor is its topic anybody's."""
    plant = make_plant()
    plant.wait_applied()
    body = plant.pipeline.get()
    topics = {"readings": {"topic": f"{plant.topic}.new"}, "sensors": {"topic": f"{plant.topic}.new.sensors"}}
    new = {
        **{key: body[key] for key in ("apiVersion", "kind")},
        "metadata": {"name": "asked", "namespace": plant.pipeline.namespace},
        "spec": {**body["spec"], "kafka": {**body["spec"]["kafka"], **topics}},
    }
    path = plant.pipeline.path.rpartition("/")[0]
    created = plant.pipeline.server.call("POST", f"{path}?dryRun=All", new)
    status, answer = asked(plan_port, created)
    assert status == 200
    said = [action["summary"] for action in answer["actions"]]
    assert any(f"create topic {plant.topic}.new " in text for text in said)
    assert "create Deployment asked-ingest" in said
    assert f"{plant.topic}.new" not in plant.broker.admin().list_topics(timeout=10).topics
    plant.pipeline.server.call("POST", path, {**new, "metadata": {**new["metadata"], "name": "real"}})
    real = OperatedPipeline(plant.pipeline.server, plant.broker, plant.pipeline.namespace, "real")
    real.wait_condition("TopicReady", "True", "Ready")
    real.delete()


def test_the_command_line_plans_a_file(
    make_plant: MakePlant, api_server: ApiServer, plan_port: int, tmp_path: Path
) -> None:
    """By a dry run of kubectl and the operator's answer; only the forwarding of its port is left out here."""
    plant = make_plant()
    plant.wait_applied()
    cluster = Cluster(ClusterOptions(namespace=plant.pipeline.namespace, kubeconfig=str(admin(api_server, tmp_path))))
    body = plant.pipeline.get()
    file = tmp_path / "pipeline.yaml"
    metadata = {"name": plant.pipeline.name}
    spec = {**body["spec"], "measurements": [{"name": "temperature"}, {"name": "humidity"}]}
    file.write_text(json.dumps({**body, "metadata": metadata, "spec": spec, "status": None}))
    (resource,) = preview.dry_run(cluster, str(file))
    plan = preview.ask(f"127.0.0.1:{plan_port}", resource)
    summaries = [action["summary"] for action in plan.actions]
    assert any("add column humidity" in summary for summary in summaries)
    assert plan.to_do
    assert "humidity" not in plant.columns()

    file.write_text(json.dumps({**body, "metadata": metadata, "spec": {**spec, "deletionPolicy": "Maybe"}}))
    with pytest.raises(UsageError, match="deletionPolicy"):
        preview.dry_run(cluster, str(file))


def admin(server: ApiServer, directory: Path) -> Path:
    """Return a kubeconfig of somebody who may do everything."""
    path = kubeconfig(server, directory / "kubeconfig")
    document = yaml.safe_load(path.read_text())
    document["users"][0]["user"]["token"] = ADMIN_TOKEN
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"spec": {"kafka": None}}, 422, "spec.kafka"),
        ({"metadata": None}, 400, "no SensorLogPipeline"),
    ],
    ids=["no Kafka", "no resource"],
)
def test_a_question_that_makes_no_sense_is_refused(
    make_plant: MakePlant, plan_port: int, change: Object, status: int, words: str
) -> None:
    """With what is wrong about it; the operator goes on."""
    body = make_plant().pipeline.get()
    answered, answer = asked(plan_port, {**body, **change})
    assert answered == status
    assert words in answer["message"]


def test_a_question_about_a_world_that_is_away_says_so(make_plant: MakePlant, plan_port: int) -> None:
    """What could be seen is planned, and the rest named."""
    plant = make_plant()
    plant.wait_applied()
    status, answer = asked(plan_port, dry_run(plant, timescale={"connectionSecretRef": {"name": "missing"}}))
    assert status == 200
    assert any("missing" in problem for problem in answer["problems"])


def annotated(name: str) -> Object:
    """Return the patch that approves a plan."""
    return {"metadata": {"annotations": {"sensorlog.dev/approve": name}}}


# Drift

APPS, CORE = "/apis/apps/v1", "/api/v1"
WRITER = "SELECT rolname FROM pg_roles WHERE rolname LIKE %s"

DRIFTS: dict[str, tuple[Callable[[Plant], None], str]] = {
    "topic configuration": (lambda p: p.set_config("retention.ms", "1000"), "set retention.ms from 1000"),
    "topic": (lambda p: p.broker.delete_topic(p.topic), "create topic"),
    "table": (lambda p: p.execute("DROP TABLE {s}.dead_letters"), "create table s.dead_letters"),
    "column": (lambda p: p.execute("ALTER TABLE {s}.sensor_data DROP COLUMN cpu"), "add column cpu"),
    "index": (lambda p: p.execute("DROP INDEX {s}.sensor_data_sensor_id_time_idx"), "create index on s.sensor_data"),
    "chunk interval": (
        lambda p: p.execute("SELECT set_chunk_time_interval('{s}.sensor_data', interval '2 h')"),
        "set the chunk interval of s.sensor_data from 2:00:00",
    ),
    "hypertable": (
        lambda p: p.execute(
            "DROP TABLE {s}.sensor_data; CREATE TABLE {s}.sensor_data"
            " (time timestamptz NOT NULL, sensor_id bigint NOT NULL, temperature float8, cpu float8);"
            f"ALTER TABLE {{s}}.sensor_data OWNER TO {owner(p)}"
        ),
        "make s.sensor_data a hypertable",
    ),
    "owner's mark": (lambda p: p.execute("COMMENT ON SCHEMA {s} IS NULL"), "mark schema s as owned"),
    "right": (
        lambda p: p.execute(f"REVOKE INSERT ON {{s}}.sensor_data FROM {writer(p)}"),
        "INSERT on table s.sensor_data",
    ),
    "Deployment": (
        lambda p: p.merge_child(APPS, "deployments", "ingest", {"spec": {"replicas": 7}}),
        "repair Deployment plant-ingest: spec.replicas",
    ),
    "ConfigMap": (
        lambda p: p.merge_child(CORE, "configmaps", "pipeline", {"data": {"extra": "x"}}),
        "repair ConfigMap plant-pipeline: data.extra",
    ),
    "Service": (lambda p: p.delete_child(CORE, "services", "query"), "create Service plant-query"),
}
"""Of each: what is done by hand, and what sets it back."""


def owner(plant: Plant) -> str:
    """Return the role that owns the schema."""
    found = plant.database.execute("SELECT nspowner::regrole FROM pg_namespace WHERE nspname = %s", [plant.schema])
    return str(found[0][0])


def writer(plant: Plant) -> str:
    """Return the role that writes."""
    return str(plant.database.execute(WRITER, [f"{plant.schema}%writer"])[0][0])


@pytest.mark.parametrize("name", DRIFTS)
def test_what_is_changed_by_hand_is_reported_and_then_repaired(make_plant: MakePlant, name: str) -> None:
    """Report leaves it and says so; Repair sets it back and says so too, in status and by a Warning."""
    change, summary = DRIFTS[name]
    plant = make_plant(driftPolicy="Report").wait_applied()
    change(plant)
    plant.wait_drift("Reported", summary)
    plant.pipeline.wait_condition("Drifted", "True", "DriftFound")
    wait_until(lambda: "Warning Left as it is" in plant.events("DriftFound"), deadline=SECONDS, what="the Event")
    assert plant.events("DriftRepaired") == ""

    plant.pipeline.change(driftPolicy="Repair")
    plant.wait_drift("Repaired", summary)
    plant.pipeline.wait_condition("Drifted", "False", "NoDrift")
    said = wait_until(lambda: plant.events("DriftRepaired"), deadline=SECONDS, what="the Event")
    assert summary in said.replace(plant.schema, "s")
    assert "Warning" in said


def test_partitions_added_by_hand_are_reported_as_what_cannot_be_set_back(make_plant: MakePlant) -> None:
    """Kafka has no way back, so the resource has to follow."""
    plant = make_plant().wait_applied()
    admin = plant.broker.admin()
    for future in admin.create_partitions([NewPartitions(plant.topic, 6)]).values():
        future.result(10)
    plant.wait_drift("Reported", "Kafka cannot remove partitions")
    plant.pipeline.wait_condition("TopicReady", "False", "PartitionsCannotShrink")
    plant.pipeline.change(kafka={"readings": {"partitions": 6}})
    plant.pipeline.wait_condition("TopicReady", "True", "Ready")
    plant.pipeline.wait_condition("Drifted", "False", "NoDrift")


def test_a_change_is_applied_beside_drift_that_is_only_reported(make_plant: MakePlant) -> None:
    """The one is wanted, the other was not."""
    plant = make_plant(driftPolicy="Report").wait_applied()
    plant.set_config("retention.ms", "1000")
    plant.wait_drift("Reported", "retention.ms")
    plant.pipeline.change(measurements=[{"name": "temperature"}, {"name": "humidity"}])
    wait_until(lambda: "humidity" in plant.columns(), deadline=SECONDS, what="the new column")
    plant.wait_drift("Reported", "retention.ms")


def test_what_a_missing_thing_is_needed_for_is_not_ready_while_it_is_only_reported(make_plant: MakePlant) -> None:
    """A topic that is gone is no harmless difference."""
    plant = make_plant(driftPolicy="Report").wait_applied()
    plant.broker.delete_topic(plant.topic)
    plant.pipeline.wait_condition("TopicReady", "False", "DriftFound")
