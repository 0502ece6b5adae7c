"""The status page: the verdict, its order, and the exit status, from objects as the API server hands them out."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from sensorlog_cli.app import app
from sensorlog_cli.status import Status, status_of
from sensorlog_cli.status_page import document, page, short_age

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
LATER = "2026-03-04T11:55:00Z"
DATABASE_AWAY = "cannot connect to db:5432: Connection refused; check the Secret's host [and port]"


def condition(kind: str, status: str = "True", reason: str = "Ready", message: str = "fine") -> dict[str, Any]:
    """Return one condition of a resource's status."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": LATER}


def resource(name: str = "demo", **failing: tuple[str, str]) -> dict[str, Any]:
    """Return a resource all of whose conditions are true, except the `failing` ones: type=(reason, message)."""
    kinds = ("Ready", "QueryReady", "IngestReady", "SchemaReady", "TopicReady")
    conditions = [condition(kind) for kind in kinds if kind not in failing]
    conditions += [condition(kind, "False", *said) for kind, said in failing.items()]
    return {
        "apiVersion": "sensorlog.dev/v1alpha1",
        "kind": "SensorLogPipeline",
        "metadata": {
            "name": name,
            "namespace": "default",
            "generation": 3,
            "creationTimestamp": "2026-03-03T10:00:00Z",
        },
        "spec": {"kafka": {"bootstrapServers": "kafka:9092"}},
        "status": {
            "observedGeneration": 3,
            "conditions": conditions,
            "topic": "logger.sensor.ts",
            "schema": "slp_default_demo",
            "endpoint": "demo-query.default.svc:50051",
            "lag": 7,
        },
    }


def broken(name: str = "demo") -> dict[str, Any]:
    """Return a resource whose database is away."""
    return resource(
        name,
        SchemaReady=("DatabaseUnavailable", DATABASE_AWAY),
        Ready=("DatabaseUnavailable", f"SchemaReady: {DATABASE_AWAY}"),
        IngestReady=("Waiting", "waits for the schema"),
    )


def pod(component: str, *, ready: bool = True, name: str = "demo", **container: Any) -> dict[str, Any]:
    """Return a pod of a pipeline; `container` goes into its container's status."""
    return {
        "metadata": {
            "name": f"{name}-{component}-abc",
            "creationTimestamp": LATER,
            "labels": {"app.kubernetes.io/component": component},
        },
        "spec": {"containers": [{"name": component, "image": f"sensorlog/{component}:1"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": component, "restartCount": 0, "state": {"running": {}}, **container}],
        },
    }


CRASHED = pod(
    "ingest",
    ready=False,
    restartCount=4,
    state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
    lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}},
)


def event(kind: str, about: str, message: str, minute: int, *, type_: str = "Normal") -> dict[str, Any]:
    """Return an Event of core/v1."""
    return {
        "metadata": {"name": f"{about}.{minute}", "namespace": "default"},
        "involvedObject": {"kind": kind, "name": about, "namespace": "default"},
        "type": type_,
        "reason": "Some",
        "message": message,
        "lastTimestamp": f"2026-03-04T11:{minute:02}:00Z",
        "count": 2,
    }


EVENTS = [
    event("SensorLogPipeline", "demo", "old but a warning", 1, type_="Warning"),
    event("SensorLogPipeline", "demo", "older", 30),
    event("Pod", "demo-ingest-abc", "newest", 50),
    event("Pod", "demo-ingest-gone", "gone", 55, type_="Warning"),
    event("Pod", "other-ingest-abc", "not ours", 55, type_="Warning"),
    event("SensorLogPipeline", "demo-2", "not ours either", 55, type_="Warning"),
]


def the_status(of: dict[str, Any], *pods: dict[str, Any]) -> Status:
    """Return the status of a resource with `pods` and `EVENTS`, as seen at `NOW`."""
    return status_of(of, pods, EVENTS, NOW)


def shown(status: Status) -> str:
    """Return the page as text on a wide terminal."""
    console = Console(width=240)
    with console.capture() as captured:
        console.print(page(status))
    return captured.get()


def test_a_ready_pipeline_says_how_well_it_is() -> None:
    """The verdict counts pods and lag."""
    status = the_status(resource(), pod("ingest"), pod("query"), pod("query", ready=False))
    assert status.ready
    assert status.verdict == "default/demo is ready: 1/1 ingest, 1/2 query, lag 7"


def test_the_verdict_names_the_first_cause_and_what_to_do() -> None:
    """The schema explains why ingest waits, so it is named and not its consequences."""
    status = the_status(broken())
    assert not status.ready
    assert status.verdict == "default/demo is NOT ready: SchemaReady is False, DatabaseUnavailable: " + DATABASE_AWAY


def test_conditions_that_do_not_hold_come_first() -> None:
    """Wrong before right, and each in the order a pipeline comes up."""
    kinds = [c.type for c in the_status(broken()).conditions]
    assert kinds == ["SchemaReady", "IngestReady", "Ready", "TopicReady", "QueryReady"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": {}}, "no operator has seen it yet"),
        ({"status": {"observedGeneration": 3}}, "it has no conditions yet"),
        ({"status": {**resource()["status"], "observedGeneration": 2}}, "generation 3, seen 2"),
        ({"metadata": {**resource()["metadata"], "deletionTimestamp": LATER}}, "it is being deleted"),
    ],
)
def test_a_status_that_is_not_of_now_is_not_ready(change: dict[str, Any], said: str) -> None:
    """Ready of an older generation says nothing of this one."""
    status = the_status({**resource(), **change})
    assert not status.ready
    assert said in status.verdict


def test_a_paused_pipeline_says_so() -> None:
    """Being paused explains why no data arrives though all is ready."""
    status = the_status({**resource(), "spec": {"paused": True}})
    assert status.verdict.endswith("PAUSED")
    assert "paused" in shown(status)


def test_a_pod_that_crashes_says_how_it_ended() -> None:
    """Restarts, the state now, and the reason of the last end."""
    [found] = the_status(resource(), CRASHED).pods
    assert (found.ready, found.restarts) == (False, 4)
    assert found.problem == "CrashLoopBackOff: back-off 40s; last ended by OOMKilled, exit status 137"


def test_a_pod_that_cannot_be_scheduled_says_why() -> None:
    """Before there is a container, the pod's conditions say what is missing."""
    unscheduled = pod("query", ready=False)
    unscheduled["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}],
    }
    [found] = the_status(resource(), unscheduled).pods
    assert found.problem == "0/1 nodes: Insufficient cpu"


def test_events_are_ours_with_warnings_first_then_the_newest() -> None:
    """Another pipeline whose name starts alike is left out, and so is a pod that is gone."""
    assert [e.message for e in the_status(resource(), pod("ingest")).events] == ["old but a warning", "newest", "older"]


def test_the_page_starts_with_the_verdict_and_has_all_parts() -> None:
    """Messages are shown as they are, also where they look like markup."""
    text = shown(the_status(broken(), CRASHED))
    assert text.splitlines()[0] == f"● {the_status(broken()).verdict}"
    for part in ("[and port]", "OOMKilled", "sensorlog/ingest:1", "slp_default_demo", "newest", "generation 3"):
        assert part in text


def test_the_document_is_json_with_ages_in_seconds() -> None:
    """A program reads the same facts."""
    facts = json.loads(json.dumps(document(the_status(resource(), pod("ingest")))))
    assert facts["ready"] is True
    assert facts["age_seconds"] == 26 * 3600
    assert facts["conditions"][0]["age_seconds"] == 300
    assert facts["pods"][0]["component"] == "ingest"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (3600, "1h"), (5400, "1h30m"), (90_000, "1d1h")]
)
def test_ages_are_short(seconds: int, text: str) -> None:
    """The largest unit, or two."""
    assert short_age(timedelta(seconds=seconds)) == text


class ApiServer:
    """Enough of a Kubernetes API server to read a pipeline from, with a kubeconfig that leads to it."""

    def __init__(self, directory: Path) -> None:
        self.resources: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self.status = 200
        self.queries: list[dict[str, list[str]]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._kubeconfig()))

    def _kubeconfig(self) -> dict[str, Any]:
        server = f"http://127.0.0.1:{self._http.server_address[1]}"
        return {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "current-context": "x",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                api.queries.append(parse_qs(url.query))
                body = json.dumps({"items": api.items(url.path)}).encode()
                self.send_response(api.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def items(self, path: str) -> list[dict[str, Any]]:
        """Return the objects of the collection at `path`."""
        return {"sensorlogpipelines": self.resources, "pods": self.pods}.get(path.rsplit("/", 1)[-1], [])

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def run(self, *arguments: str) -> Result:
        """Run the program in this cluster."""
        return CliRunner().invoke(app, [*arguments, "--kubeconfig", str(self.kubeconfig)])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """Return a cluster with nothing in it."""
    server = ApiServer(tmp_path)
    yield server
    server.close()


def test_status_of_a_ready_pipeline_ends_with_0(api: ApiServer) -> None:
    """Its page is on standard output, its pods are chosen by label."""
    api.resources, api.pods = [resource()], [pod("ingest"), pod("query")]
    result = api.run("status", "demo")
    assert result.exit_code == 0
    assert result.stdout.startswith("● default/demo is ready: 1/1 ingest, 1/1 query, lag 7")
    assert {"labelSelector": ["app.kubernetes.io/name=sensorlog,app.kubernetes.io/instance=demo"]} in api.queries


def test_status_of_a_broken_pipeline_ends_with_1(api: ApiServer) -> None:
    """A script sees it without reading."""
    api.resources = [broken()]
    result = api.run("status", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["ready"] is False


def test_status_of_several_is_a_line_each_with_the_broken_first(api: ApiServer) -> None:
    """One that is not ready makes the whole not ready."""
    api.resources = [resource("fine"), broken("bad")]
    result = api.run("status", "-A")
    assert result.exit_code == 1
    first, second = (line for line in result.stdout.splitlines() if line.startswith("●"))
    assert "bad is NOT ready" in first
    assert "fine is ready" in second


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["status"], 3, "no SensorLogPipeline in namespace 'default'"),
        (["status", "nope"], 3, "no SensorLogPipeline 'nope'"),
        (["status", "-A", "nope"], 2, "a NAME is in one namespace"),
        (["status", "--watch", "-o", "json"], 2, "--watch is for people"),
        (["publish", "--data", "{}"], 3, "no SensorLogPipeline in namespace"),
        (["readings"], 3, "no SensorLogPipeline in namespace"),
        (["readings", "-n", "elsewhere"], 3, "no SensorLogPipeline in namespace 'elsewhere'"),
    ],
)
def test_what_is_not_there_ends_with_its_status(api: ApiServer, arguments: list[str], status: int, said: str) -> None:
    """Nothing on standard output, one line of error."""
    result = api.run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def test_one_of_several_pipelines_must_be_chosen(api: ApiServer) -> None:
    """The choice is listed."""
    api.resources = [resource("a"), resource("b")]
    result = api.run("latest")
    assert result.exit_code == 2
    assert "a, b; choose with --pipeline" in result.stderr


def test_publish_needs_a_running_ingest_pod(api: ApiServer) -> None:
    """It is sent through one, so a crashed one is no way."""
    api.resources, api.pods = [resource()], [CRASHED]
    seed = json.dumps({"ts": 1646409307, "sensor_id": 1})
    result = api.run("publish", "--data", seed)
    assert result.exit_code == 3
    assert "default/demo has no running ingest pod" in result.stderr


def test_publish_checks_against_what_the_resource_declares(api: ApiServer) -> None:
    """Units and measurements come from the cluster."""
    declared = resource()
    declared["spec"] |= {"timestampUnit": "ms", "measurements": [{"name": "humidity", "max": 100}]}
    api.resources = [declared]
    wrong = json.dumps({"ts": 1646409307000, "sensor_id": 1, "humidity": 101})
    result = api.run("publish", "--data", wrong)
    assert result.exit_code == 2
    assert "reading 1: humidity: must be at most 100, not 101" in result.stderr


@pytest.mark.parametrize(
    ("status", "said"), [(401, "log in again"), (403, "not allowed"), (404, "sensorlog chart is installed")]
)
def test_refusals_of_the_api_server_say_what_to_do(api: ApiServer, status: int, said: str) -> None:
    """The remedy differs."""
    api.status = status
    result = api.run("status")
    assert result.exit_code == 3
    assert said in result.stderr


def test_a_cluster_that_is_gone(api: ApiServer) -> None:
    """One line, without urllib3's own warnings."""
    api.close()
    result = api.run("status")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert "the cluster does not answer" in result.stderr


def test_without_a_kubeconfig_the_way_without_a_cluster_is_named(tmp_path: Path) -> None:
    """Somebody who has no cluster can still ask a query service."""
    result = CliRunner().invoke(app, ["readings", "--kubeconfig", str(tmp_path / "none")])
    assert result.exit_code == 3
    assert "--endpoint" in result.stderr
