"""Copies of what the API server holds: what they show, whatever becomes of the watch that keeps them."""

import base64
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from sensorlog_operator import kube as kube_module
from sensorlog_operator.informers import Informer, Watched
from sensorlog_operator.kube import CONFIG_MAP, INSTANCE, MANAGED_BY, SECRET, SELECTOR, Kube, Object
from sensorlog_operator.mirror import Listeners, Mirror
from support.apiserver import ADMIN_TOKEN, ApiServer, running_api_server
from support.containers import ContainerEngine
from support.operated import write_kubeconfig
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

CHILDREN = Watched(CONFIG_MAP, label_selector=SELECTOR, by_instance=True)
PATIENT = 70.0
DEADLINE = 30.0


@pytest.fixture(scope="module")
def server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Yield an API server."""
    with running_api_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def kube(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Kube:
    """Return the API as its administrator calls it."""
    configuration = client.Configuration()
    path: Path = write_kubeconfig(server, tmp_path_factory.mktemp("kube") / "kubeconfig", ADMIN_TOKEN)
    config.load_kube_config(config_file=str(path), client_configuration=configuration)
    return Kube(client.ApiClient(configuration))


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """Return a new namespace."""
    name = f"plants-{secrets.token_hex(3)}"
    server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


class Heard:
    """Remembers the names of what changed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, metadata: Object) -> None:
        """Take the metadata of what changed."""
        self.names.append(metadata["name"])


@pytest.fixture
def heard() -> Heard:
    """Return who is told."""
    return Heard()


def put(server: ApiServer, namespace: str, name: str, pipeline: str, **data: str) -> None:
    """Create a child of a pipeline."""
    labels = {"app.kubernetes.io/managed-by": MANAGED_BY, INSTANCE: pipeline}
    body = {"metadata": {"name": name, "labels": labels}, "data": data}
    server.call("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)


def values(informer: Informer, namespace: str, pipeline: str) -> dict[str, Any]:
    """Return the data of a pipeline's children by name."""
    return {body["metadata"]["name"]: body.get("data") for body in informer.find(namespace, pipeline)}


def test_copies_follow_what_happens(
    server: ApiServer, kube: Kube, namespace: str, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a list in several parts on; each change is told, the first list is not."""
    monkeypatch.setattr(kube_module, "PAGE", 2)
    for number in range(5):
        put(server, namespace, f"plant-{number}", "plant", number=str(number))
    put(server, namespace, "hall-1", "hall")
    informer = Informer(kube, CHILDREN, PATIENT, heard)
    assert not informer.is_current
    informer.start()
    wait_until(lambda: informer.is_current, deadline=DEADLINE, what="the copies to be current")
    assert values(informer, namespace, "plant") == {f"plant-{n}": {"number": str(n)} for n in range(5)}
    assert heard.names == []
    (body,) = informer.find(namespace, "hall")
    assert (body["kind"], body["apiVersion"]) == ("ConfigMap", "v1")
    assert "managedFields" not in body["metadata"]

    path = f"/api/v1/namespaces/{namespace}/configmaps"
    server.merge(f"{path}/plant-3", {"data": {"number": "three"}})
    server.call("DELETE", f"{path}/plant-4")
    wait_for_value(lambda: heard.names, ["plant-3", "plant-4"], deadline=DEADLINE, what="what is told")
    assert values(informer, namespace, "plant")["plant-3"] == {"number": "three"}
    assert "plant-4" not in values(informer, namespace, "plant")
    informer.stop()


def test_a_silent_stream_is_not_trusted_and_opened_anew(
    server: ApiServer, kube: Kube, namespace: str, heard: Heard
) -> None:
    """Nothing is said to be up to date while nothing is heard; what happens is noticed all the same."""
    informer = Informer(kube, CHILDREN, 1.0, heard)
    informer.start()
    wait_until(lambda: informer.is_current, deadline=DEADLINE, what="the copies to be current")
    wait_until(lambda: not informer.is_current, deadline=DEADLINE, what="the silence to be noticed")
    put(server, namespace, "plant-1", "plant")
    wait_until(lambda: "plant-1" in heard.names, deadline=DEADLINE, what="the change to be noticed")
    informer.stop()


def test_secrets_are_read_once_for_each_change_and_nobody_elses(
    server: ApiServer, kube: Kube, namespace: str, heard: Heard
) -> None:
    """Only versions are watched: the value of a Secret that nobody asks for is never sent."""

    def encoded(text: str) -> Object:
        return {"data": {"uri": base64.b64encode(text.encode()).decode()}}

    def reads() -> int:
        return sum(
            event["verb"] == "get" and event.get("objectRef", {}).get("name") == "database"
            for event in server.requests("admin")
        )

    path = f"/api/v1/namespaces/{namespace}/secrets"
    for name in ("database", "others"):
        server.call("POST", path, {"metadata": {"name": name}, **encoded("first")})
    mirror = Mirror(kube, [namespace], PATIENT, Listeners(heard, heard))
    mirror.start()
    wait_until(lambda: mirror.get(SECRET, namespace, "database"), deadline=DEADLINE, what="the Secret")
    assert [mirror.get(SECRET, namespace, "database") for _ in range(5)][-1] is not None
    assert reads() == 1
    server.merge(f"{path}/database", encoded("second"))
    wait_until(
        lambda: mirror.get(SECRET, namespace, "database"),
        lambda body: body is not None and body["data"] == encoded("second")["data"],
        deadline=DEADLINE,
        what="the new value",
    )
    assert reads() == 2
    assert "database" in heard.names
    kept = mirror._of(SECRET, namespace)._objects
    assert [copy.text for copies in kept.values() for copy in copies.values()] == [b"", b""]
    server.call("DELETE", f"{path}/database")
    wait_for_value(lambda: mirror.get(SECRET, namespace, "database"), None, deadline=DEADLINE, what="the Secret")
    mirror.stop()


def test_what_nobody_watched_is_found_by_listing_anew(
    server: ApiServer, kube: Kube, namespace: str, heard: Heard
) -> None:
    """The API server says that the version to go on from is gone (410); what was deleted meanwhile is told."""
    for name in ("gone", "changed", "same"):
        put(server, namespace, name, "plant", state="old")
    informer = Informer(kube, CHILDREN, PATIENT, heard)
    informer._list()
    server.call("DELETE", f"/api/v1/namespaces/{namespace}/configmaps/gone")
    server.merge(f"/api/v1/namespaces/{namespace}/configmaps/changed", {"data": {"state": "new"}})
    with server.killed():  # what it remembers of the past is gone with it
        pass
    wait_until(lambda: is_gone(server, informer._version), deadline=DEADLINE, what="a version that is too old")
    informer.start()
    wait_until(lambda: {"gone", "changed"} <= set(heard.names), deadline=DEADLINE, what="both to be told")
    assert values(informer, namespace, "plant") == {"changed": {"state": "new"}, "same": {"state": "old"}}
    assert "same" not in heard.names
    informer.stop()


def is_gone(server: ApiServer, version: str) -> bool:
    """Return whether a watch from a version on is told that it is too old."""
    event = server.call("GET", f"/api/v1/configmaps?watch=true&resourceVersion={version}&timeoutSeconds=5")
    return bool(event["type"] == "ERROR" and event["object"]["code"] == HTTPStatus.GONE)
