"""Logins of a pipeline when something ends in the middle: the operator at each of its writes, or a replica that lags.

The operator's reconciles run in this process, one at a time, so that they can be ended where it hurts.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kubernetes import client

from sensorlog_operator.claims import Claims
from sensorlog_operator.events import Events
from sensorlog_operator.kube import Kind, Kube, Object
from sensorlog_operator.reconcile import Reconciler
from sensorlog_query import sql
from support.apiserver import ADMIN_TOKEN, ApiServer
from support.database import Database, ReplicatedDatabase
from support.kafka import KafkaBroker
from support.plants import COMPONENTS, MakePlant, Plant, Provisioner, plants, provisioner
from support.resources import operator_settings
from support.waiting import wait_until

pytestmark = pytest.mark.integration


class DiedError(BaseException):
    """The operator is gone; nothing of it may catch this."""


class MortalKube(Kube):
    """The API, as long as the operator lives: its nth write is its last, done or not."""

    def __init__(self, api: client.ApiClient, *, lives: float = float("inf"), done: bool = True) -> None:
        super().__init__(api)
        self._lives = lives
        self._done = done

    def apply(self, kind: Kind, body: Object, **options: Any) -> Object | None:
        """Apply, and maybe die."""
        applied: Object | None = self._mortally(lambda: super(MortalKube, self).apply(kind, body, **options))
        return applied

    def merge(self, kind: Kind, metadata: Object, patch: Object) -> None:
        """Merge, and maybe die."""
        self._mortally(lambda: super(MortalKube, self).merge(kind, metadata, patch))

    def _mortally(self, write: Callable[[], Any]) -> Any:
        self._lives -= 1
        if self._lives == 0 and not self._done:
            raise DiedError
        result = write()
        if self._lives == 0:
            raise DiedError
        return result


@pytest.fixture(scope="module")
def api(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> client.ApiClient:
    """Return a client of it with all rights."""
    authority = tmp_path_factory.mktemp("authority") / "ca.crt"
    authority.write_bytes(api_server.authority.certificate)
    configuration = client.Configuration()
    configuration.host, configuration.ssl_ca_cert = api_server.url, str(authority)
    configuration.api_key = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return client.ApiClient(configuration)


@pytest.fixture
def make_plant(api_server: ApiServer, broker: KafkaBroker, database: Database, tmp_path: Path) -> Iterator[MakePlant]:
    """Yield a factory of pipelines that only this module's reconciles know."""
    with provisioner(database) as admin, plants(api_server, broker, admin, tmp_path) as make:
        yield make


def reconcile(kube: Kube, plant: Plant) -> bool:
    """Let an operator that has just started reconcile once; return whether it wants to come again."""
    reconciler = Reconciler(kube, operator_settings(), Claims(), Events(kube, "test"), requeue=lambda _key: None)
    return reconciler.reconcile(f"{plant.pipeline.namespace}/{plant.pipeline.name}")


def settle(kube: Kube, plant: Plant) -> None:
    """Reconcile, and roll out what is planned, until there is nothing left to do."""
    for _ in range(2):
        reconcile(kube, plant)
        for component in COMPONENTS:
            plant.pods.report(component, total=1)
    reconcile(kube, plant)


def usable(plant: Plant) -> dict[str, str]:
    """Return the login that the pods of each component have, having connected as they would."""
    found = {}
    for component in COMPONENTS:
        if (deployment := plant.pipeline.deployment(component)) is None:
            continue
        (volume,) = (v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "database")
        (source,) = volume["projected"]["sources"]
        with psycopg.connect(
            plant.uris(component)[source["secret"]["items"][0]["key"]], connect_timeout=3
        ) as connection:
            found[component] = connection.info.user
        assert found[component] == plant.login(component)
    return found


def dies(plant: Plant, api: client.ApiClient, *, at: int, done: bool) -> bool:
    """Let an operator do what is to do until its `at`th write, and its successor the rest; return whether it died."""
    try:
        settle(MortalKube(api, lives=at, done=done), plant)
    except DiedError:
        usable(plant)
        settle(Kube(api), plant)
        return True
    return False


def assert_settled(plant: Plant, request: str) -> dict[str, str]:
    """See that there is one login of each component and no other, by this request; return them."""
    found = usable(plant)
    assert set(found) == set(COMPONENTS)
    assert len(plant.let_in()) == 2
    assert [len(plant.uris(component)) for component in COMPONENTS] == [1, 1]
    assert plant.status().get("request", "") == request
    return found


DONE = pytest.mark.parametrize("done", [False, True], ids=["before", "after"])


@DONE
def test_an_operator_that_dies_while_it_provisions_leaves_its_successor_to_finish(
    make_plant: MakePlant, api: client.ApiClient, *, done: bool
) -> None:
    """At each of its writes."""
    deaths = 0
    while dies(plant := make_plant(), api, at=deaths + 1, done=done):
        assert_settled(plant, "")
        deaths += 1
    assert deaths >= 10  # two Secrets twice, seven children and more, the status


@DONE
def test_an_operator_that_dies_in_a_rotation_leaves_pods_a_way_in_and_its_successor_to_finish(
    make_plant: MakePlant, api: client.ApiClient, *, done: bool
) -> None:
    """At each of its writes: what the pod template names can log in at any time."""
    plant = make_plant()
    settle(Kube(api), plant)
    deaths, died = 0, True
    while died:
        before = usable(plant)
        plant.rotate(request := f"rotation {deaths}")
        died = dies(plant, api, at=deaths + 1, done=done)
        after = assert_settled(plant, request)
        assert [after[component] != before[component] for component in COMPONENTS] == [True, True]
        deaths += died
    assert deaths >= 8  # two Secrets three times, two Deployments


def test_reconciles_of_what_is_settled_write_nothing(make_plant: MakePlant, api: client.ApiClient) -> None:
    """So that the Secrets' own events cause no more of them."""
    plant = make_plant()
    settle(Kube(api), plant)
    assert reconcile(MortalKube(api, lives=1, done=False), plant) is False


def test_a_query_service_on_a_replica_gets_a_login_there_and_never_one_that_is_not_there_yet(
    api_server: ApiServer, broker: KafkaBroker, replicated: ReplicatedDatabase, api: client.ApiClient, tmp_path: Path
) -> None:
    """It is tried where the pods will use it; a replica that does not hear of it leaves them as they are."""
    with provisioner(replicated.primary) as admin, plants(api_server, broker, admin, tmp_path) as make:
        plant = make(readConnectionSecretRef={"name": "replica"})
        at_replica = Provisioner(admin.name, admin.password, replicated.standby)
        plant.put_uri(at_replica.uri, "replica")
        wait_until(lambda: not reconcile(Kube(api), plant), deadline=30, what="the replica to have the login")
        settle(Kube(api), plant)
        before = usable(plant)
        with psycopg.connect(plant.uris("query")["uri-a"], autocommit=True) as reader:
            assert reader.info.port == replicated.standby.port
            assert reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            reader.execute(sql.REPLAYED)
        replicated.stop_replication()
        plant.rotate("while the replica hears nothing")
        assert reconcile(Kube(api), plant) is True
        condition = plant.pipeline.condition("AccessReady")
        assert condition is not None
        assert (condition["status"], "of query does not get in yet" in condition["message"]) == ("False", True)
        after = usable(plant)
        assert after["query"] == before["query"]
        assert after["ingest"] != before["ingest"]
