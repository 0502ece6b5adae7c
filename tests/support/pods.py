"""What a cluster would do with a pipeline's Deployments: one pod of each, as a process of this host.

A pod reads the files that its template mounts, from the objects in the API server, when it starts.
"""

import base64
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.apiserver import Object
from support.containers import free_port
from support.operated import OperatedPipeline
from support.processes import ServiceProcess

MODULES = {"ingest": "sensorlog_ingest", "query": "sensorlog_query"}


@dataclass(frozen=True)
class Pod:
    """A pod that runs."""

    name: str
    template: Object
    process: ServiceProcess
    grpc_port: int


class Pods:
    """The pods of one pipeline. `replace` is a rolling update: the new one is ready before the old one goes."""

    def __init__(self, pipeline: OperatedPipeline, directory: Path) -> None:
        self._pipeline = pipeline
        self._directory = directory
        self._running: dict[str, Pod] = {}
        self._started: list[ServiceProcess] = []

    def start(self, component: str) -> Pod:
        """Start a pod of the Deployment's template as it is now; wait until it is ready."""
        deployment = self._pipeline.deployment(component)
        assert deployment is not None
        name = f"{self._pipeline.name}-{component}-{len(self._started)}"
        template = deployment["spec"]["template"]
        metadata = {**template["metadata"], "name": name}
        self._pipeline.server.call("POST", self._path, {"metadata": metadata, "spec": template["spec"]})
        port = free_port()
        environment = self._mounted(template["spec"], self._directory / name)
        process = ServiceProcess(
            MODULES[component],
            {**environment, "SENSORLOG_GRPC_PORT": str(port), "SENSORLOG_LOG_FORMAT": "json"},
            self._directory / f"{name}.log",
        )
        self._started.append(process)
        return Pod(name, template, process.wait_ready(), port)

    def replace(self, component: str, *, between: Callable[[], None] = lambda: None) -> None:
        """Bring a component to its template; `between` runs while both pods are there."""
        new, old = self.start(component), self._running.get(component)
        self._running[component] = new
        self.report(component, total=2 if old else 1)
        between()
        if old:
            assert old.process.stop() == 0
            self._pipeline.server.call("DELETE", f"{self._path}/{old.name}?gracePeriodSeconds=0")
            self.report(component, total=1)

    def report(self, component: str, *, total: int) -> None:
        """Write the Deployment's status: one pod is of the current template, of `total`."""
        deployment = self._pipeline.deployment(component)
        assert deployment is not None
        counts = {"replicas": total, "readyReplicas": total, "availableReplicas": total, "updatedReplicas": 1}
        status = {"observedGeneration": deployment["metadata"]["generation"], **counts}
        metadata = deployment["metadata"]
        path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}/status"
        self._pipeline.server.merge(path, {"status": status})

    @contextlib.contextmanager
    def query(self) -> Iterator[LoggerStub]:
        """Yield the query service as its Service's address leads to it now."""
        with grpc.insecure_channel(f"127.0.0.1:{self._running['query'].grpc_port}") as channel:
            yield LoggerStub(channel)

    def clean_up(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.clean_up()

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._pipeline.namespace}/pods"

    def _mounted(self, spec: Object, directory: Path) -> dict[str, str]:
        """Write the files that a pod's volumes hold; return the settings that tell where."""
        for volume in spec["volumes"]:
            folder = directory / volume["name"]
            folder.mkdir(parents=True)
            for name, content in self._files(volume):
                (folder / name).write_bytes(content)
        primary = directory / "primary"
        return {
            **({"SENSORLOG_PRIMARY_DIR": str(primary)} if primary.exists() else {}),
            "SENSORLOG_CONFIG": str(directory / "pipeline" / "pipeline.json"),
            "SENSORLOG_DATABASE_DIR": str(directory / "database"),
            "SENSORLOG_KAFKA_DIR": str(directory / "kafka"),
        }

    def _files(self, volume: Object) -> Iterator[tuple[str, bytes]]:
        base = f"/api/v1/namespaces/{self._pipeline.namespace}"
        if source := volume.get("configMap"):
            data: dict[str, Any] = self._pipeline.server.call("GET", f"{base}/configmaps/{source['name']}")["data"]
            yield from ((name, text.encode()) for name, text in data.items())
        for projected in volume.get("projected", {}).get("sources", ()):
            wanted = projected["secret"]
            secret = self._pipeline.server.call("GET", f"{base}/secrets/{wanted['name']}")
            yield from ((item["path"], base64.b64decode(secret["data"][item["key"]])) for item in wanted["items"])
