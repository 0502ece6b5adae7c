"""A kind cluster with the whole product on it, used as people use it: by kubectl, helm and sensorlog."""

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 120
READY_SECONDS = 120

Object = dict[str, Any]


class CommandError(Exception):
    """A command failed; its output is the message."""


def run(*command: str, stdin: str | None = None, env: Mapping[str, str] | None = None, seconds: float = 120) -> str:
    """Run a command and return its standard output; CommandError with both outputs when it fails."""
    done = subprocess.run(
        command,
        input=stdin,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise CommandError(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def secret(namespace: str, name: str = "timescaledb", **data: str) -> Object:
    """Return a Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }


@dataclass(frozen=True)
class Cluster:
    """One kind cluster."""

    name: str
    kubeconfig: Path

    def run(self, *command: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command against this cluster; as `run`."""
        return run(*command, stdin=stdin, env={"KUBECONFIG": str(self.kubeconfig)}, seconds=seconds)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl."""
        return self.run("kubectl", *arguments, stdin=stdin)

    def get(self, kind: str, name: str, namespace: str) -> Object:
        """Return an object; CommandError where it does not exist."""
        found: Object = json.loads(self.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """Return the objects that match a label selector."""
        answer = json.loads(self.kubectl("-n", namespace, "get", kind, "-l", selector, "-o", "json"))
        return list(answer["items"])

    def exists(self, kind: str, name: str, namespace: str) -> bool:
        """Return whether an object exists."""
        found = self.kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "name")
        return bool(found.strip())

    def apply(self, *objects: Object) -> None:
        """Apply objects as `kubectl apply` does."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def database_uri(self) -> str:
        """Return the connection URI that the backing chart generated."""
        secret = self.get("secret", "timescaledb-app", "backing")
        return base64.b64decode(secret["data"]["uri"]).decode()

    def psql(self, statement: str) -> str:
        """Run SQL in the database of the backing services; return its bare output."""
        psql = ("psql", self.database_uri(), "-v", "ON_ERROR_STOP=1", "-At", "-c", statement)
        return self.kubectl("-n", "backing", "exec", "timescaledb-0", "--", *psql).strip()


@dataclass
class E2EPipeline:
    """One pipeline of one test, in a namespace of its own."""

    cluster: Cluster
    namespace: str
    name: str = "plant"
    spec: Object = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """Topic of readings."""
        return f"{self.namespace}.readings"

    @property
    def schema(self) -> str:
        """Schema of the tables."""
        return f"slp_{self.namespace}_{self.name}".replace("-", "_")

    def body(self, **changes: Any) -> Object:
        """Return the resource, with `changes` merged into its spec."""
        base: Object = {
            "kafka": {
                "bootstrapServers": "kafka.backing.svc:9092",
                "readings": {"topic": self.topic, "partitions": 2},
                "sensors": {"topic": f"{self.namespace}.sensors"},
            },
            "timescale": {"connectionSecretRef": {"name": "timescaledb"}},
        }
        return {
            "apiVersion": "sensorlog.dev/v1alpha1",
            "kind": "SensorLogPipeline",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": merged(merged(base, self.spec), changes),
        }

    def apply(self, **changes: Any) -> None:
        """Apply the resource; what is changed stays changed in later calls."""
        self.spec = merged(self.spec, changes)
        self.cluster.apply(self.body())

    def get(self) -> Object:
        """Return the resource as it is in the cluster."""
        return self.cluster.get("slp", self.name, self.namespace)

    def conditions(self) -> dict[str, Object]:
        """Return the conditions by type."""
        return {c["type"]: c for c in self.get().get("status", {}).get("conditions", [])}

    def wait_ready(self, *, deadline: float = READY_SECONDS) -> "E2EPipeline":
        """Wait until the current generation is ready."""

        def look() -> tuple[bool, Any]:
            body = self.get()
            status = body.get("status", {})
            seen = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions", [])]
            current = status.get("observedGeneration") == body["metadata"]["generation"]
            return current and bool(seen) and seen[-1].startswith("Ready=True"), seen

        wait_until(look, lambda seen: seen[0], deadline=deadline, what=f"{self.namespace}/{self.name} to be ready")
        return self

    def wait_condition(self, kind: str, reason: str, *, status: str = "False", deadline: float = 60) -> Object:
        """Wait until a condition has a status and a reason; return it."""
        return wait_until(
            lambda: self.conditions()[kind],
            lambda c: (c["status"], c["reason"]) == (status, reason),
            deadline=deadline,
            what=f"{kind}={status} with reason {reason}",
        )

    def events(self) -> list[Object]:
        """Return the Events about the resource."""
        every = self.cluster.list("events", self.namespace)
        return [e for e in every if e["involvedObject"]["kind"] == "SensorLogPipeline"]

    def sensorlog(self, *arguments: str, stdin: str | None = None) -> str:
        """Run the command line tool on this pipeline."""
        command, *rest = arguments
        return self.cluster.run(
            *("sensorlog", command, "-n", self.namespace, "-p", self.name, *rest), stdin=stdin, seconds=180
        )

    def publish(self, readings: list[Object]) -> None:
        """Send readings through the command line tool."""
        self.sensorlog("publish", "-", stdin=json.dumps(readings))

    def readings(self, *arguments: str) -> list[Object]:
        """Return what the query service answers."""
        answer: list[Object] = json.loads(self.sensorlog("readings", "--output", "json", "--all", *arguments))
        return answer

    def stored(self) -> int:
        """Return the rows in the database."""
        return int(self.cluster.psql(f"SELECT count(*) FROM {self.schema}.sensor_data"))

    def deployment(self, component: str) -> Object:
        """Return a component's Deployment."""
        return self.cluster.get("deployment", f"{self.name}-{component}", self.namespace)

    def approve_deletion(self) -> None:
        """Let the deletion of the resource take its data too, by the command line."""
        wait_until(
            lambda: self.get()["status"]["plan"]["actions"],
            lambda actions: any("when the resource is deleted" in action["summary"] for action in actions),
            deadline=60,
            what="a plan that asks whether deletion may take the data",
        )
        self.sensorlog("plan", "--approve")
        wait_until(
            lambda: self.get()["metadata"].get("finalizers"),
            lambda found: found == ["sensorlog.dev/cleanup"],
            deadline=60,
            what="our finalizer",
        )

    def delete(self) -> None:
        """Delete the resource and wait until it is gone."""
        self.cluster.kubectl("-n", self.namespace, "delete", "slp", self.name, "--ignore-not-found", "--timeout=90s")


def merged(base: Object, changes: Object) -> Object:
    """Return `base` with `changes` over it; maps are merged, None takes a key away, all else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
