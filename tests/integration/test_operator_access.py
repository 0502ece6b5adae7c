"""The logins of a pipeline, by the operator as a process with the chart's rights: given, rotated, repaired, taken away.

Pods are processes of this host, so that a rotation can be watched by real traffic.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pytest
from psycopg.conninfo import conninfo_to_dict

from sensorlog.rpc import logger_pb2 as pb
from support.apiserver import ApiServer
from support.database import Database
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS
from support.plants import COMPONENTS, SECONDS, MakePlant, Plant, Provisioner, plants, provisioner
from support.processes import ServiceProcess
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def admin(database: Database) -> Iterator[Provisioner]:
    """Yield a user who may provision."""
    with provisioner(database) as user:
        yield user


@pytest.fixture
def make_plant(api_server: ApiServer, broker: KafkaBroker, admin: Provisioner, tmp_path: Path) -> Iterator[MakePlant]:
    """Yield a factory of pipelines, each in a namespace of its own."""
    with plants(api_server, broker, admin, tmp_path) as make:
        yield make


@pytest.fixture
def plant(make_plant: MakePlant, operator: ServiceProcess) -> Plant:
    """Return a pipeline that the operator has provisioned, with a pod of each component."""
    assert operator.is_running
    plant = make_plant()
    for component in COMPONENTS:
        plant.wait_login(component, "a")
    plant.replace_pods()
    plant.pipeline.wait_condition("Ready", "True", "Ready")
    return plant


@dataclass
class Traffic:
    """What was sent, and what was read without an error."""

    sent: int = 0
    reads: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(plant: Plant, broker: KafkaBroker) -> Iterator[Traffic]:
    """Produce readings and read them, all the time, as long as this block runs."""
    seen, stop = Traffic(), threading.Event()
    topic = f"{plant.pipeline.namespace}.{plant.pipeline.name}.readings"

    def write() -> None:
        producer = broker.producer()
        while not stop.wait(0.002):
            reading = {"ts": SEED_TS + seen.sent, "sensor_id": seen.sent % 7, "temperature": 20.5}
            producer.produce(topic, json.dumps(reading).encode())
            producer.poll(0)
            seen.sent += 1
        assert producer.flush(30) == 0

    def read() -> None:
        while not stop.wait(0.002):
            with plant.pods.query() as stub:
                try:
                    stub.ListSensorData(pb.ListSensorDataReq(page_size=10), timeout=10)
                    stub.GetSensorAvgData(pb.GetSensorAvgDataReq(), timeout=10)
                    seen.reads += 1
                except grpc.RpcError as e:
                    seen.failures.append(str(e))

    threads = [threading.Thread(target=target) for target in (write, read)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_pods_have_logins_of_their_own_and_no_sight_of_the_admins(plant: Plant) -> None:
    """Neither its name nor its password is in any object but the Secret that the resource names."""
    namespace = f"namespaces/{plant.pipeline.namespace}"
    texts = [
        json.dumps(item) + "".join(base64.b64decode(v).decode() for v in (item.get("data") or {}).values())
        for path in (
            f"/api/v1/{namespace}/secrets",
            f"/apis/apps/v1/{namespace}/deployments",
            f"/api/v1/{namespace}/pods",
        )
        for item in plant.server.call("GET", path)["items"]
        if item["metadata"]["name"] != "timescaledb"
    ]
    texts.append(json.dumps(plant.server.call("GET", f"/api/v1/{namespace}/configmaps")))
    assert len(texts) >= 7
    assert not [text for text in texts if plant.admin.name in text or plant.admin.password in text]
    assert plant.let_in() == {"writer_a", "reader_a"}
    for component, ending in (("ingest", "writer_a"), ("query", "reader_a")):
        (uri,) = plant.uris(component).values()
        assert str(conninfo_to_dict(uri)["user"]).endswith(ending)
        found = plant.admin.database.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = %s AND usename LIKE %s",
            [f"sensorlog-{component}", f"{plant.schema}%"],
        )
        assert [str(name).endswith(ending) for (name,) in found] == [True]
    assert plant.pipeline.condition("AccessReady")["status"] == "True"  # type: ignore[index]


def test_a_rotation_loses_no_reading_and_fails_no_read(plant: Plant, broker: KafkaBroker) -> None:
    """Both logins are good while pods are replaced; then the old one is shut out, and the request told as done."""
    with traffic(plant, broker) as seen:
        wait_until(lambda: seen.reads > 5 and plant.stored()[0] > 100, deadline=SECONDS, what="traffic")
        plant.rotate("because somebody left")
        for component, group in (("ingest", "writer"), ("query", "reader")):
            plant.wait_login(component, "b")
            both = {f"{group}_a", f"{group}_b"}
            plant.pods.replace(component, between=partial(plant.stay_let_in, both))
        plant.wait_let_in("writer_b", "reader_b")
        before = seen.reads, plant.stored()[0]
        wait_until(
            lambda: seen.reads > before[0] + 5 and plant.stored()[0] > before[1] + 100, deadline=SECONDS, what="traffic"
        )
    assert seen.failures == []
    wait_for_value(plant.stored, (seen.sent, seen.sent), deadline=SECONDS, what="readings stored, and distinct ones")
    wait_until(lambda: plant.status().get("request") == "because somebody left", deadline=SECONDS, what="status")
    assert plant.status()["ingest"].endswith("writer_b")
    assert [list(plant.uris(component)) for component in COMPONENTS] == [["uri-b"], ["uri-b"]]


def test_the_next_rotation_takes_the_first_login_again(plant: Plant) -> None:
    """With another password than it had."""
    first = plant.uris("ingest")["uri-a"]
    for text, slot in (("one", "b"), ("two", "a")):
        plant.rotate(text)
        for component in COMPONENTS:
            plant.wait_login(component, slot)
        plant.replace_pods()
        plant.wait_let_in(f"writer_{slot}", f"reader_{slot}")
    assert plant.uris("ingest")["uri-a"] != first


def test_a_password_of_age_is_replaced(plant: Plant) -> None:
    """By the schedule of the resource; the age is the Secret's own word."""
    plant.pipeline.change(timescale={"rotateCredentialsEvery": "1h"})
    name = f"{plant.pipeline.name}-query-database"
    path = f"/api/v1/namespaces/{plant.pipeline.namespace}/secrets/{name}"
    made = {"sensorlog.dev/password-made-at": "2026-01-01T00:00:00Z"}
    plant.server.merge(path, {"metadata": {"annotations": made}})
    plant.wait_login("query", "b")
    assert str(plant.login("ingest")).endswith("_a")


def test_a_secret_that_is_lost_comes_back_with_the_other_login(plant: Plant) -> None:
    """Pods that run keep theirs until they are replaced."""
    path = f"/api/v1/namespaces/{plant.pipeline.namespace}/secrets/{plant.pipeline.name}-ingest-database"
    plant.server.call("DELETE", path)
    plant.wait_login("ingest", "b")
    assert plant.let_in() == {"writer_a", "writer_b", "reader_a"}
    plant.pods.replace("ingest")
    plant.wait_let_in("writer_b", "reader_a")


def test_what_somebody_did_in_the_database_is_set_right(plant: Plant) -> None:
    """A login shut out by hand and a right granted by hand."""
    database, login = plant.admin.database, plant.login("query")
    database.execute(f"ALTER ROLE {login} NOLOGIN")
    database.execute(f"GRANT DELETE ON {plant.schema}.sensor_data TO {login}")
    plant.wait_let_in("writer_a", "reader_a")
    deletes = "SELECT has_table_privilege(%s, %s, 'DELETE')"
    wait_for_value(
        lambda: database.execute(deletes, [login, f"{plant.schema}.sensor_data"]),
        [(False,)],
        deadline=SECONDS,
        what="DELETE",
    )


def test_a_changed_password_of_the_admin_rolls_no_pod_and_another_host_rolls_each_once(plant: Plant) -> None:
    """Pods are replaced when what they connect with changed, and only then."""

    def generations() -> list[int]:
        found = [plant.pipeline.deployment(component) for component in COMPONENTS]
        return [int(deployment["metadata"]["generation"]) for deployment in found if deployment]

    before = generations()
    changed = Provisioner(plant.admin.name, f"{plant.admin.password}-changed", plant.admin.database)
    changed.database.execute(f"ALTER ROLE {changed.name} PASSWORD '{changed.password}'")
    plant.pipeline.wait_condition("SchemaReady", "False", "DatabaseAuthenticationFailed")
    plant.put_uri(changed.uri)
    plant.pipeline.wait_condition("Ready", "True", "Ready")
    assert generations() == before
    plant.put_uri(changed.uri.replace("127.0.0.1", "localhost"))
    wait_for_value(generations, [number + 1 for number in before], deadline=SECONDS, what="generations")
    plant.replace_pods()
    plant.pipeline.wait_condition("Ready", "True", "Ready")
    assert generations() == [number + 1 for number in before]


def test_shared_access_gives_pods_the_named_secret_and_takes_the_logins_away(plant: Plant) -> None:
    """Once no pod uses them."""
    plant.pipeline.change(timescale={"access": "Shared"})
    for component in COMPONENTS:
        wait_for_value(partial(plant.login, component), None, deadline=SECONDS, what="login")
    assert plant.let_in() == {"writer_a", "reader_a"}
    plant.replace_pods()
    plant.wait_let_in()
    nothing: dict[str, str] = {}
    for component in COMPONENTS:
        wait_for_value(partial(plant.uris, component), nothing, deadline=SECONDS, what="what the Secret holds")
    plant.pipeline.wait_condition("Ready", "True", "Ready")


def test_an_admin_who_may_not_create_roles_is_told_and_shared_access_is_a_way(
    make_plant: MakePlant, operator: ServiceProcess, admin: Provisioner
) -> None:
    """Nothing is done silently instead."""
    assert operator.is_running
    admin.database.execute(f"ALTER ROLE {admin.name} NOCREATEROLE")
    plant = make_plant()
    condition = plant.pipeline.wait_condition("AccessReady", "False", "DatabaseRolesNotPermitted")
    assert f'ALTER ROLE "{admin.name}" CREATEROLE' in condition["message"]
    assert plant.pipeline.deployment("ingest") is None
    plant.pipeline.change(timescale={"access": "Shared"})
    for component in COMPONENTS:
        wait_until(partial(plant.pipeline.deployment, component), deadline=SECONDS, what="a Deployment")
    assert plant.login("ingest") is None


def test_deletion_with_policy_delete_takes_the_roles_too(plant: Plant) -> None:
    """All six."""
    plant.pods.clean_up()
    plant.pipeline.change(deletionPolicy="Delete")
    plant.pipeline.approve_deletion()
    path = f"/api/v1/namespaces/{plant.pipeline.namespace}/pods"
    for pod in plant.server.call("GET", path)["items"]:
        plant.server.call("DELETE", f"{path}/{pod['metadata']['name']}?gracePeriodSeconds=0")
    plant.pipeline.delete()
    assert not plant.admin.database.execute("SELECT 1 FROM pg_roles WHERE rolname LIKE %s", [f"{plant.schema}%"])
