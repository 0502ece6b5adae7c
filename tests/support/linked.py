"""Pipelines whose Kafka and database are reached by links of their own, which a test may lose."""

import base64
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from support.apiserver import ApiServer, Object
from support.database import Database
from support.kafka import KafkaBroker
from support.links import Link
from support.operated import Login, OperatedPipeline
from support.waiting import wait_until
from support.worlds import world

PROVISIONED = ("TopicReady", "SchemaReady", "AccessReady")
"""The conditions that hold where no kubelet runs."""


@dataclass(frozen=True)
class Surroundings:
    """What pipelines are made in."""

    server: ApiServer
    broker: KafkaBroker
    database: Database
    login: Login


@dataclass
class LinkedPipeline:
    """One pipeline, and its links."""

    around: Surroundings
    pipeline: OperatedPipeline
    kafka: Link
    postgres: Link

    @property
    def uid(self) -> str:
        """The resource's."""
        return str(self.pipeline.get()["metadata"]["uid"])

    def is_provisioned(self) -> bool:
        """Return whether all of the resource as it is now is done, as its status says."""
        resource = self.pipeline.get()
        status = resource.get("status") or {}
        held = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
        return (
            "applied" in status
            and status.get("observedGeneration") == resource["metadata"]["generation"]
            and held.issuperset(PROVISIONED)
        )

    def wait_provisioned(self, deadline: float = 60) -> None:
        """Wait until it is."""
        wait_until(self.is_provisioned, deadline=deadline, what=f"{self.pipeline.path} to be provisioned")

    def wait_gone(self) -> None:
        """Wait until the resource is there no more."""
        wait_until(
            lambda: self.around.server.find(self.pipeline.path) is None, deadline=60, what=f"{self.pipeline.path} to go"
        )

    def wait_reason(self, reason: str) -> None:
        """Wait until a condition does not hold, for this reason; or until the resource is gone."""

        def told() -> bool:
            found = self.around.server.find(self.pipeline.path)
            if found is None:
                return True
            conditions = (found.get("status") or {}).get("conditions", ())
            return any((one["status"], one["reason"]) == ("False", reason) for one in conditions)

        wait_until(told, deadline=60, what=f"{self.pipeline.path}: {reason}")

    def world(self) -> Object:
        """Return all there is of it, in words that are the same for all of the same spec."""
        return world(self.pipeline, self.around.database, self.uid, (str(self.kafka.port), "KAFKA"))


class LinkedPipelines:
    """Makes pipelines, each in a namespace of its own. Use it as a context: they are deleted after it."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self._open = ExitStack()
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the pipelines, then their links; what is lost is found again, so that what must be cleaned up can."""
        for link in self._links:
            link.restore()
        self._open.close()

    def make(self, **spec: Any) -> LinkedPipeline:
        """Create a pipeline."""
        made = self.prepare()
        made.pipeline.create(**spec)
        return made

    def prepare(self) -> LinkedPipeline:
        """Make all that a pipeline needs; the resource is still to be created."""
        around, namespace = self.around, f"linked-{secrets.token_hex(4)}"
        kafka = self._open.enter_context(Link.to_kafka(int(around.broker.bootstrap_servers.rpartition(":")[2])))
        postgres = self._open.enter_context(Link.to_postgres(around.database.port))
        self._links += [kafka, postgres]
        around.server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        uri = around.login.uri.replace(f":{around.database.port}/", f":{postgres.port}/")
        secret = {"metadata": {"name": "timescaledb"}, "data": {"uri": base64.b64encode(uri.encode()).decode()}}
        around.server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        broker = KafkaBroker(f"127.0.0.1:{kafka.port}", around.broker.container)
        pipeline = OperatedPipeline(around.server, broker, namespace)
        self._open.callback(pipeline.delete)
        return LinkedPipeline(around, pipeline, kafka, postgres)
