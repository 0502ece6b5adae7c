"""The operator killed between any two of its steps, and a new one that goes on from there."""

import base64
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import kills
from support.apiserver import ApiServer, Object
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import OperatedPipeline, kubeconfig, login
from support.worlds import world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

MOST_ROUNDS = 5
MOST_STEPS = 200


@dataclass
class Plant:
    """A pipeline whose operator runs only when it is told to."""

    pipeline: OperatedPipeline
    database: Database
    kubeconfig: Path
    uid: str = field(init=False)

    def __post_init__(self) -> None:
        self.uid = self.pipeline.get()["metadata"]["uid"]

    @property
    def key(self) -> str:
        """What a reconcile is given."""
        return f"{self.pipeline.namespace}/{self.pipeline.name}"

    def killed_after(self, changes: int) -> bool:
        """Reconcile until so many changes were made; return whether there were so many."""
        return kills.reconcile(str(self.kubeconfig), self.key, kill_after=changes) == -signal.SIGKILL

    def converge(self) -> None:
        """Reconcile as new operators until nothing is left to do."""
        codes = [kills.reconcile(str(self.kubeconfig), self.key)]
        while codes[-1] and len(codes) < MOST_ROUNDS:
            codes.append(kills.reconcile(str(self.kubeconfig), self.key))
        assert codes[-1] == 0, f"reconciles ended with {codes}; status: {self.pipeline.status()}"

    def world(self) -> Object:
        """Return all there is of the pipeline, in words that are the same for every pipeline of the same spec."""
        return world(self.pipeline, self.database, self.uid)


MakePlant = Callable[..., Plant]


@pytest.fixture
def make_plant(api_server: ApiServer, broker: KafkaBroker, database: Database, tmp_path: Path) -> MakePlant:
    """Return a factory of pipelines, each in a namespace of its own."""
    user = login(database)
    access = kubeconfig(api_server, tmp_path / "kubeconfig")

    def make(**spec: Any) -> Plant:
        namespace = f"killed-{secrets.token_hex(3)}"
        api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        data = {"uri": base64.b64encode(user.uri.encode()).decode()}
        secret = {"metadata": {"name": "timescaledb"}, "data": data}
        api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        return Plant(OperatedPipeline(api_server, broker, namespace).create(**spec), database, access)

    return make


def test_creation_survives_a_kill_between_any_two_steps(make_plant: MakePlant) -> None:
    """Whatever was done already, what comes of it is the same as without the kill."""
    undisturbed = make_plant()
    undisturbed.converge()
    expected = undisturbed.world()
    assert len(expected["children"]) > 5
    for changes in range(1, MOST_STEPS):
        plant = make_plant()
        died = plant.killed_after(changes)
        plant.converge()
        assert plant.world() == expected, f"after a kill behind change {changes}"
        assert "applied" in plant.pipeline.status()
        plant.pipeline.server.call("DELETE", plant.pipeline.path)
        if not died:
            break
    assert not died
    assert changes > 20, "fewer changes than a creation takes: the kills did not happen where they should"


def test_an_approved_plan_survives_a_kill_between_any_two_steps(make_plant: MakePlant) -> None:
    """What is left of it is done without asking again."""
    change = {
        "kafka": {"readings": {"partitions": 6, "retention": "1d"}},
        "measurements": [{"name": "temperature"}, {"name": "humidity"}],
    }
    for changes in range(1, MOST_STEPS):
        plant = make_plant(approval="Manual")
        plant.converge()
        plant.pipeline.approve("create topic")
        plant.converge()
        plant.pipeline.change(**change)
        plant.converge()
        before = plant.world()
        plant.pipeline.approve("from 4 to 6 partitions", "humidity")
        assert plant.world() == before
        died = plant.killed_after(changes)
        plant.converge()
        world = plant.world()
        assert world["topics"]["NAMESPACE.plant.readings"] == [6, "86400000"], f"after change {changes}"
        assert "humidity" in world["database"]["tables"]["sensor_data"]
        assert "plan" not in plant.pipeline.status()
        plant.pipeline.server.call("DELETE", plant.pipeline.path)
        if not died:
            break
    assert not died
    assert changes > 5, "fewer changes than the plan takes"


def test_an_approved_deletion_survives_a_kill_between_any_two_steps(make_plant: MakePlant) -> None:
    """In the end neither topic nor schema nor role is left, and the resource is gone."""
    for changes in range(1, MOST_STEPS):
        plant = make_plant(deletionPolicy="Delete")
        plant.converge()
        plant.pipeline.approve("when the resource is deleted")
        plant.converge()
        plant.pipeline.server.call("DELETE", plant.pipeline.path)
        for child in ("ingest", "query"):  # no garbage collector runs here
            path = f"/apis/apps/v1/namespaces/{plant.pipeline.namespace}/deployments/plant-{child}"
            plant.pipeline.server.call("DELETE", path)
        died = plant.killed_after(changes)
        plant.converge()
        assert plant.pipeline.server.find(plant.pipeline.path) is None
        world = plant.world()
        assert (world["topics"], world["database"]["tables"], world["database"]["roles"]) == ({}, {}, {})
        if not died:
            break
    assert not died
    assert changes > 3, "fewer changes than a deletion takes"
