"""How pods are told their login: what the Secret says, what the template mounts, and what asks for a reconcile."""

import base64
from typing import Any, cast

import pytest

from sensorlog_operator import manifests
from sensorlog_operator.access import read_held, secret_name
from sensorlog_operator.claims import Claims
from sensorlog_operator.handlers import Watcher
from sensorlog_operator.kube import Kube
from sensorlog_operator.manifests import DATABASE_LOGIN
from sensorlog_operator.models import ROTATE_CREDENTIALS
from sensorlog_operator.secrets import Credentials, Mount, Projection
from sensorlog_operator.workqueue import WorkQueue
from support.resources import a_pipeline, operator_settings, pipeline_body

Object = dict[str, Any]

GOOD = {"sensorlog.dev/active-login": "a", DATABASE_LOGIN: "plant_writer_a"}
SASL = {
    "bootstrapServers": "kafka:9092",
    "security": {
        "protocol": "SASL_SSL",
        "saslMechanism": "PLAIN",
        "credentialsSecretRef": {"name": "kafka"},
    },
}


def a_secret(annotations: dict[str, str], **values: str) -> Object:
    """Return a Secret of logins."""
    data = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": {"annotations": annotations}, "data": data}


def test_a_secret_says_which_login_is_active() -> None:
    """And its password."""
    held = read_held(a_secret(GOOD, uri_a="postgresql://plant_writer_a:secret@db/x"))
    assert (held.active, held.coming, held.passwords) == ("a", None, {"a": "secret"})


@pytest.mark.parametrize(
    "secret",
    [
        {"metadata": {}},
        a_secret(GOOD),
        a_secret(GOOD, uri_a="no uri"),
        a_secret(GOOD, uri_a="postgresql://plant_writer_a@db/x"),
        {"metadata": {"annotations": GOOD}, "data": {"uri-a": "no base64"}},
        a_secret({"sensorlog.dev/active-login": "c", DATABASE_LOGIN: "x"}, uri_c="postgresql://x:y@db/x"),
        a_secret({DATABASE_LOGIN: "plant_writer_a"}, uri_b="postgresql://x:y@db/x"),
    ],
)
def test_a_secret_that_was_damaged_has_no_active_login(secret: Object) -> None:
    """So that a new one is made."""
    assert read_held(secret).active is None


def test_pods_name_their_login_and_mount_its_key_only() -> None:
    """Those of the former login go on reading theirs from the same Secret."""
    mount = Mount(Projection("plant-query-database", "uri-b", "uri", "spec"), "digest", "plant_reader_b")
    children = manifests.build_all(a_pipeline(), operator_settings(), {"query": mount})
    (deployment,) = (child for child in children if child["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"][DATABASE_LOGIN] == "plant_reader_b"
    (volume,) = (v for v in template["spec"]["volumes"] if v["name"] == "database")
    assert volume["projected"]["sources"] == [
        {"secret": {"name": "plant-query-database", "items": [{"key": "uri-b", "path": "uri"}]}}
    ]


def test_a_component_without_a_login_is_left_as_it_is() -> None:
    """The other one is provisioned."""
    mount = Mount(Projection("plant-query-database", "uri-a", "uri", "spec"), "digest", "plant_reader_a")
    children = manifests.build_all(a_pipeline(), operator_settings(), {"query": mount})
    assert [child["metadata"]["name"] for child in children if child["kind"] == "Deployment"] == ["plant-query"]


class Secrets:
    """Secrets by name, as the API server would hand them out."""

    def __init__(self, **secrets: dict[str, str]) -> None:
        self._secrets = secrets

    def get(self, _kind: Any, _namespace: str, name: str) -> Object:
        """Return a Secret."""
        return a_secret({}, **self._secrets[name])


def test_a_new_password_for_kafka_rolls_ingest_only() -> None:
    """The query service does not connect there."""

    def digests(password: str) -> list[str]:
        secrets = Secrets(timescaledb={"uri": "postgresql://db"}, kafka={"username": "u", "password": password})
        credentials = Credentials(cast("Kube", secrets), a_pipeline(kafka=SASL))
        return [credentials.digest(component, "postgresql://db") for component in ("ingest", "query")]

    before, after = digests("one"), digests("two")
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]


@pytest.fixture
def queue() -> WorkQueue:
    """Return a queue to look into."""
    return WorkQueue()


@pytest.fixture
def watcher(queue: WorkQueue) -> Watcher:
    """Return a watcher that has seen the pipeline default/plant."""
    watcher = Watcher(queue.add, Claims())
    watcher.pipeline({"type": "ADDED", "object": pipeline_body()})
    assert taken(queue) == ["default/plant"]
    return watcher


def taken(queue: WorkQueue) -> list[str]:
    """Return the keys that wait, and take them out."""
    keys = [cast("str", queue.get()) for _ in range(len(queue))]
    for key in keys:
        queue.done(key)
    return keys


def test_a_request_for_new_passwords_is_noticed_at_once(watcher: Watcher, queue: WorkQueue) -> None:
    """An annotation does not change the resource's generation; the same text again is no news."""
    body = pipeline_body()
    body["metadata"]["annotations"] = {ROTATE_CREDENTIALS: "now"}
    for expected in (["default/plant"], []):
        watcher.pipeline({"type": "MODIFIED", "object": body})
        assert taken(queue) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("plant-ingest-database", 1), ("plant-query-database", 1), ("timescaledb", 1), ("another", 0)],
)
def test_secrets_that_are_named_or_made_are_watched(
    watcher: Watcher, queue: WorkQueue, name: str, expected: int
) -> None:
    """One that somebody deleted comes back at once."""
    watcher.secret({"namespace": "default", "name": name})
    assert len(taken(queue)) == expected


def test_the_names_of_secrets_say_whose_they_are() -> None:
    """NAME-ingest-database and NAME-query-database."""
    assert secret_name(a_pipeline(), "ingest") == "plant-ingest-database"
    assert secret_name(a_pipeline(), "query") == "plant-query-database"
