"""A release with the very first CRD, upgraded to the present one by Helm while resources are stored."""

import json
import shutil
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensorlog_operator.deletion import FINALIZER
from sensorlog_operator.kube import FINALIZER_MANAGER
from support.apiserver import ADMIN_TOKEN, ApiServer, Object, running_api_server
from support.cluster import ROOT, run
from support.containers import ContainerEngine
from support.operated import CRDS, NAMESPACE, RELEASE, pipelines_path, start_operator, write_kubeconfig
from support.resources import pipeline_body
from support.waiting import wait_until

pytestmark = pytest.mark.integration

ORIGINAL_CRD = Path(__file__).with_name("original_crd.yaml")
"""As the chart shipped it at first."""

CHART = ROOT / "charts/sensorlog"
CRD = f"{CRDS}/sensorlogpipelines.sensorlog.dev"

EVERYTHING: dict[str, Any] = {
    "kafka": {
        "bootstrapServers": "127.0.0.1:1",
        "security": {
            "protocol": "SASL_SSL",
            "saslMechanism": "SCRAM-SHA-512",
            "credentialsSecretRef": {"name": "user"},
            "caSecretRef": {"name": "ca"},
            "clientCertificateSecretRef": {"name": "client"},
        },
        "readings": {
            "topic": "r",
            "partitions": 12,
            "replicationFactor": 3,
            "retention": "3d",
            "config": {"compression.type": "zstd"},
        },
        "sensors": {"topic": "s", "partitions": 2, "replicationFactor": 3, "config": {"cleanup.policy": "compact"}},
    },
    "timescale": {
        "connectionSecretRef": {"name": "db", "key": "url"},
        "readConnectionSecretRef": {"name": "replica", "key": "url"},
        "schema": "plant",
        "chunkInterval": "6h",
    },
    "timestampUnit": "ms",
    "measurements": [{"name": "pressure", "unit": "Pa", "min": 0, "max": 1e6}, {"name": "flow"}],
    "ingest": {
        "replicas": 3,
        "batch": {"maxRows": 100, "maxDelay": "1s"},
        "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}},
        "image": "example.com/ingest:1",
    },
    "query": {
        "replicas": 2,
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
        "image": "example.com/query:1",
    },
    "deletionPolicy": "Delete",
    "paused": True,
}
"""Every field that the first CRD knew."""

STORED = {
    "everything": EVERYTHING,
    "nothing": {},
    "degrees": {"measurements": [{"name": "temperature", "unit": "°C"}]},
    "slow": {"ingest": {"batch": {"maxDelay": "5m"}}},
}
"""Of these the last two would be refused today, and the operator can use all but the very last."""


@dataclass
class Release:
    """A release of the chart in a bare API server; no controller runs there, so nothing is waited for."""

    server: ApiServer
    kubeconfig: Path

    def install(self, chart: Path) -> None:
        """Install it, or upgrade it to this chart."""
        command = ("helm", "upgrade", "--install", RELEASE, str(chart), "-n", NAMESPACE, "--create-namespace")
        run(*command, env={"KUBECONFIG": str(self.kubeconfig)})


@dataclass
class Upgraded:
    """The resources before and after the upgrade."""

    server: ApiServer
    before: Mapping[str, Object]
    after: Mapping[str, Object] = field(default_factory=dict)


def original_chart(directory: Path) -> Path:
    """Return the chart with the first CRD."""
    chart = directory / "sensorlog"
    shutil.copytree(CHART, chart)
    shutil.copy(ORIGINAL_CRD, chart / "files/sensorlogpipelines.yaml")
    return chart


def path_of(name: str) -> str:
    """Return where a resource is."""
    return f"{pipelines_path('default')}/{name}"


def create(server: ApiServer, name: str, spec: Object, *, dry: bool = False) -> Object:
    """Create a resource; urllib's HTTPError where it is refused."""
    body = pipeline_body(**spec)
    body["metadata"] = {"name": name, "namespace": "default"}
    query = "?fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    return server.call("POST", pipelines_path("default") + query, body)


def hold(server: ApiServer, name: str) -> None:
    """Give a resource the operator's finalizer, as an operator of that time did."""
    metadata = {"name": name, "namespace": "default", "finalizers": [FINALIZER]}
    body = {"apiVersion": "sensorlog.dev/v1alpha1", "kind": "SensorLogPipeline", "metadata": metadata}
    path = f"{path_of(name)}?fieldManager={FINALIZER_MANAGER}&force=true"
    server.call("PATCH", path, body, kind="application/apply-patch+yaml")


@pytest.fixture(scope="module")
def upgraded(engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """Yield what an upgrade left, with the operator of today at work."""
    directory = tmp_path_factory.mktemp("release")
    with running_api_server(engine) as server:
        release = Release(server, write_kubeconfig(server, directory / "admin", ADMIN_TOKEN))
        release.install(original_chart(directory))
        wait_until(lambda: server.call("GET", pipelines_path("default")), deadline=30, what="the CRD to be served")
        before = {name: create(server, name, spec) for name, spec in STORED.items()}
        assert "approval" not in before["nothing"]["spec"], "this is not the first CRD"
        hold(server, "slow")
        release.install(CHART)
        wait_until(
            lambda: "approval" in server.call("GET", path_of("nothing"))["spec"], deadline=30, what="the new fields"
        )
        after = {name: server.call("GET", path_of(name)) for name in STORED}
        operator = start_operator(server, directory).wait_ready()
        yield Upgraded(server, before, after)
        operator.clean_up()


def lost(before: Any, after: Any, path: str = "spec") -> list[str]:
    """Return the fields of `before` that are not in `after`, or are others there."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [one for key, value in before.items() for one in lost(value, after.get(key), f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [one for n, (a, b) in pairs for one in lost(a, b, f"{path}[{n}]")]
    return [] if before == after else [path]


@pytest.mark.parametrize("name", STORED)
def test_an_upgrade_keeps_every_field_of_what_is_stored(upgraded: Upgraded, name: str) -> None:
    """And none of the resources is written anew for it."""
    before, after = upgraded.before[name], upgraded.after[name]
    assert lost(before["spec"], after["spec"]) == []
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_everything_is_everything_that_the_first_crd_knew() -> None:
    """Else a field could be lost unseen."""
    document = yaml.safe_load(ORIGINAL_CRD.read_text())
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def unknown(schema: Object, value: Any, path: str = "spec") -> list[str]:
        if "properties" not in schema:
            return []
        fields = [f"{path}.{name}" for name in schema["properties"] if name not in value]
        inner = [(name, each) for name, each in schema["properties"].items() if name in value]
        return fields + [one for name, each in inner for one in unknown(each, value[name], f"{path}.{name}")]

    assert unknown(schema, EVERYTHING) == []


def test_an_upgrade_brings_the_new_fields(upgraded: Upgraded) -> None:
    """With their defaults, and to be set; Helm upgrades no CRD of a folder crds, so ours is a template."""
    assert upgraded.after["nothing"]["spec"]["driftPolicy"] == "Repair"
    changed = upgraded.server.merge(path_of("nothing"), {"spec": {"canary": {"interval": "45s"}}})
    assert changed["spec"]["canary"]["interval"] == "45s"
    annotations = upgraded.server.call("GET", CRD)["metadata"]["annotations"]
    assert annotations["helm.sh/resource-policy"] == "keep"


def test_the_operator_takes_on_what_an_older_one_left(upgraded: Upgraded) -> None:
    """Status is written; what it says is about the world, not about the resource."""
    for name in ("everything", "nothing", "degrees"):
        wait_reason(upgraded.server, name, "SchemaReady", "SecretNotFound")


def test_what_would_be_refused_today_goes_on_and_can_be_changed_elsewhere(upgraded: Upgraded) -> None:
    """A rule that is new counts for what is new."""
    changed = upgraded.server.merge(path_of("degrees"), {"spec": {"query": {"replicas": 2}}})
    assert changed["spec"]["measurements"][0]["unit"] == "°C"
    with pytest.raises(urllib.error.HTTPError) as refused:
        create(upgraded.server, "new", STORED["degrees"], dry=True)
    with refused.value as answer:
        assert "unit must be a UCUM code" in json.loads(answer.read())["message"]


def test_what_the_operator_cannot_use_says_so_and_is_held_by_nothing(upgraded: Upgraded) -> None:
    """The condition names the field; a deletion does not wait for a resource that nobody understands."""
    said = wait_reason(upgraded.server, "slow", "Ready", "InvalidSpec")
    assert said.startswith("spec.ingest.batch.maxDelay: ")
    assert "between 1ms and 60s" in said
    upgraded.server.call("DELETE", path_of("slow"))
    wait_until(lambda: upgraded.server.find(path_of("slow")) is None, deadline=30, what="the resource to be gone")


def wait_reason(server: ApiServer, name: str, kind: str, reason: str) -> str:
    """Wait until a condition of a resource has a reason; return its message."""

    def look() -> Object:
        conditions = server.call("GET", path_of(name)).get("status", {}).get("conditions", ())
        return next((one for one in conditions if one["type"] == kind), {})

    found = wait_until(look, lambda one: one.get("reason") == reason, deadline=45, what=f"{name} to be {reason}")
    return str(found["message"])
