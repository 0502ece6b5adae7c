"""A pipeline that is read from a replica: the operator provisions it, and its query pod asks the primary where it must.

The operator is a process with the chart's rights, primary and standby are real, the pod is a process of this host.
"""

import base64
import secrets
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from psycopg.conninfo import conninfo_to_dict

from sensorlog.rpc import logger_pb2 as pb
from support.apiserver import ApiServer
from support.database import ReplicatedDatabase
from support.kafka import KafkaBroker
from support.operated import OperatedPipeline, start_operator
from support.pods import Pods
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

SECONDS = 45
FRESH = (("max-staleness-ms", "500"),)


@dataclass(frozen=True)
class Plant:
    """A pipeline whose query pod reads from the standby."""

    pipeline: OperatedPipeline
    pods: Pods
    replicated: ReplicatedDatabase

    def write(self, sensor_id: int) -> None:
        """Store a reading of a sensor on the primary."""
        schema = self.pipeline.schema
        statement = f"INSERT INTO {schema}.sensor_data (time, sensor_id) VALUES (now(), %s)"
        self.replicated.primary.execute(statement, [sensor_id])

    def sensors(self, metadata: Any = ()) -> set[int]:
        """Return the sensors that the query service knows readings of."""
        with self.pods.query() as stub:
            reply = stub.ListSensorData(pb.ListSensorDataReq(), timeout=10, metadata=metadata)
            return {reading.sensor_id for reading in reply.results}

    def uris(self) -> dict[str, dict[str, Any]]:
        """Return the connections that the Secret of the query service holds, by key."""
        path = f"/api/v1/namespaces/{self.pipeline.namespace}/secrets/{self.pipeline.name}-query-database"
        data = self.pipeline.server.call("GET", path)["data"]
        return {key: conninfo_to_dict(base64.b64decode(value).decode()) for key, value in data.items()}

    def mounts(self) -> set[str]:
        """Return the volumes of the query pods."""
        deployment = self.pipeline.deployment("query")
        return {v["name"] for v in deployment["spec"]["template"]["spec"]["volumes"]} if deployment else set()


@pytest.fixture
def plant(
    api_server: ApiServer, broker: KafkaBroker, replicated: ReplicatedDatabase, tmp_path: Path
) -> Iterator[Plant]:
    """Yield a pipeline that is provisioned on the primary and read from the standby; its operator goes on running."""
    namespace = f"plants-{secrets.token_hex(3)}"
    api_server.account(namespace, "somebody")
    for name, database in (("timescaledb", replicated.primary), ("replica", replicated.standby)):
        data = {"uri": base64.b64encode(database.uri.encode()).decode()}
        api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}, "data": data})
    operator = start_operator(api_server, tmp_path).wait_ready()
    pipeline = OperatedPipeline(api_server, broker, namespace)
    plant = Plant(pipeline, Pods(pipeline, tmp_path), replicated)
    plant.pipeline.create(timescale={"readConnectionSecretRef": {"name": "replica"}})
    wait_until(plant.mounts, deadline=SECONDS, what="the query service's Deployment")
    plant.pods.replace("query")
    yield plant
    plant.pods.clean_up()
    plant.pipeline.delete()
    operator.clean_up()


def test_the_primary_is_asked_as_the_role_that_reads_the_replica(plant: Plant) -> None:
    """With leave, and no more of it than on the replica. Without leave it is refused, and the pod has no way there."""
    plant.write(1)
    wait_for_value(plant.sensors, {1}, deadline=SECONDS, what="what the replica has")
    assert "primary" not in plant.mounts()
    with plant.replicated.replay_paused():
        plant.write(2)
        wait_until(lambda: _is_refused(plant), deadline=SECONDS, what="the replica to be too old")

    plant.pipeline.change(query={"replicaFallback": "Primary"})
    wait_until(plant.mounts, lambda names: "primary" in names, deadline=SECONDS, what="the primary to be mounted")
    at_replica, at_primary = (plant.uris()[key] for key in ("uri-a", "primary-uri-a"))
    assert int(at_replica["port"]) == plant.replicated.standby.port
    assert int(at_primary["port"]) == plant.replicated.primary.port
    assert at_primary["user"] == at_replica["user"] != "postgres"
    plant.pods.replace("query")
    with plant.replicated.replay_paused():
        plant.write(3)
        assert plant.sensors() == {1, 2}
        wait_for_value(lambda: plant.sensors(FRESH), {1, 2, 3}, deadline=SECONDS, what="what the primary has")

    plant.pipeline.change(query={"replicaFallback": "Refuse"})
    wait_until(plant.mounts, lambda names: "primary" not in names, deadline=SECONDS, what="the primary to be gone")
    assert set(plant.uris()) == {"uri-a"}


def _is_refused(plant: Plant) -> bool:
    try:
        plant.sensors(FRESH)
    except grpc.RpcError as e:
        return e.code() is grpc.StatusCode.FAILED_PRECONDITION
    return False


def test_a_fallback_without_a_replica_is_refused_by_the_resource(plant: Plant) -> None:
    """The primary answers everything then."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        plant.pipeline.change(query={"replicaFallback": "Primary"}, timescale={"readConnectionSecretRef": None})
    assert "needs timescale.readConnectionSecretRef" in caught.value.read().decode()
