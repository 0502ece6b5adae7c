"""What holds a resource when the operator, or the CRD, is taken away; with the chart's rights in a real API server."""

import base64
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensorlog_operator.deletion import FINALIZER
from support.apiserver import ApiServer, Object, running_api_server
from support.containers import ContainerEngine
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import (
    CRDS,
    NAMESPACE,
    RBAC,
    OperatedPipeline,
    install_resource,
    install_rights,
    kubeconfig,
    login,
    remove_rights,
    start_operator,
)
from support.waiting import wait_until

pytestmark = pytest.mark.integration

UNINSTALLER = "sensorlog-operator-uninstall"
USER = f"system:serviceaccount:{NAMESPACE}:{UNINSTALLER}"
STRANGERS = "example.com/theirs"
CRD = f"{CRDS}/sensorlogpipelines.sensorlog.dev"
APPS = "/apis/apps/v1"

MakePipeline = Callable[..., OperatedPipeline]


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Yield an API server that knows pipelines, and both accounts of the chart."""
    with running_api_server(engine) as server:
        install_resource(server)
        for account in ("sensorlog-operator", UNINSTALLER):
            server.account(NAMESPACE, account)
        yield server


@pytest.fixture
def make_pipeline(api_server: ApiServer, broker: KafkaBroker, database: Database) -> MakePipeline:
    """Return a factory of pipelines, each in a namespace of its own."""
    user = login(database)

    def make(*finalizers: str) -> OperatedPipeline:
        namespace = f"uninstalled-{secrets.token_hex(3)}"
        api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        data = {"uri": base64.b64encode(user.uri.encode()).decode()}
        secret = {"metadata": {"name": "timescaledb"}, "data": data}
        api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        pipeline = OperatedPipeline(api_server, broker, namespace).create(deletionPolicy="Delete")
        if finalizers:
            # As a restore from a backup leaves them: they belong to whoever restored.
            api_server.merge(pipeline.path, {"metadata": {"finalizers": list(finalizers)}})
        return pipeline

    return make


def finalizers(pipeline: OperatedPipeline) -> list[str]:
    """Return what holds a resource."""
    return list(pipeline.get()["metadata"].get("finalizers", ()))


def let_go(server: ApiServer, directory: Path, *namespaces: str) -> subprocess.CompletedProcess[str]:
    """Do as the chart's Job does, with its account; return how it ended."""
    path = kubeconfig(server, directory / "kubeconfig", UNINSTALLER)
    return subprocess.run(
        [sys.executable, "-m", "sensorlog_operator.uninstall", *namespaces],
        env={"KUBECONFIG": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_resource_is_let_go_by_just_the_rights_of_the_job(
    api_server: ApiServer, make_pipeline: MakePipeline, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One that was being deleted goes; other people's finalizers stay; each is told of it by an Event."""
    install_rights(api_server)
    request.addfinalizer(lambda: remove_rights(api_server))
    held, shared, going = make_pipeline(FINALIZER), make_pipeline(FINALIZER, STRANGERS), make_pipeline(FINALIZER)
    untouched = make_pipeline()
    api_server.call("DELETE", going.path)
    before = untouched.get()["metadata"]["resourceVersion"]

    done = let_go(api_server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (finalizers(held), finalizers(shared)) == ([], [STRANGERS])
    assert api_server.find(going.path) is None
    assert untouched.get()["metadata"]["resourceVersion"] == before
    events = api_server.call("GET", f"/api/v1/namespaces/{held.namespace}/events")["items"]
    assert [event["reason"] for event in events] == ["DataStays"]
    api_server.merge(shared.path, {"metadata": {"finalizers": None}})

    used = {
        (about.get("apiGroup", ""), about["resource"], one["verb"])
        for one in api_server.requests(USER)
        if (about := one.get("objectRef"))
    }
    role = api_server.call("GET", f"{RBAC}/clusterroles/{UNINSTALLER}")
    assert used == {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_chosen_namespaces_are_let_go_whatever_becomes_of_another(
    api_server: ApiServer, make_pipeline: MakePipeline, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One that was deleted took the right to look into it along: that is said. Elsewhere is no business of this one."""
    held, elsewhere = make_pipeline(FINALIZER), make_pipeline(FINALIZER)
    request.addfinalizer(lambda: api_server.merge(elsewhere.path, {"metadata": {"finalizers": None}}))
    install_rights(api_server, "--set", f"watchNamespaces={{{held.namespace}}}")
    request.addfinalizer(lambda: remove_rights(api_server))
    done = let_go(api_server, tmp_path, "gone", held.namespace)
    assert done.returncode == 1
    assert "namespace not looked into" in done.stderr
    assert (finalizers(held), finalizers(elsewhere)) == ([], [FINALIZER])


def test_what_could_not_be_let_go_is_said(api_server: ApiServer, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Without rights the Job fails, and Helm with it."""
    held = make_pipeline(FINALIZER)
    role = {"metadata": {"name": "may-list-only"}}
    rules = [{"apiGroups": ["sensorlog.dev"], "resources": ["sensorlogpipelines"], "verbs": ["list"]}]
    api_server.grant({"kind": "ServiceAccount", "name": UNINSTALLER, "namespace": NAMESPACE}, "may-list-only", rules)
    try:
        done = let_go(api_server, tmp_path)
    finally:
        api_server.call("DELETE", f"{RBAC}/clusterrolebindings/{role['metadata']['name']}")
        api_server.merge(held.path, {"metadata": {"finalizers": None}})
    assert done.returncode == 1
    assert f"{held.namespace}/plant" in done.stdout + done.stderr


def test_the_crd_goes_with_the_pipelines_and_the_operator_goes_on_when_it_is_back(
    api_server: ApiServer,
    make_pipeline: MakePipeline,
    database: Database,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Deleting the CRD deletes every pipeline as deleting it by name does; nothing hangs, whoever was away."""
    install_rights(api_server)
    request.addfinalizer(lambda: remove_rights(api_server))
    armed, going = make_pipeline(), make_pipeline()
    operator = start_operator(api_server, tmp_path).wait_ready()
    request.addfinalizer(operator.clean_up)
    for pipeline in (armed, going):
        pipeline.approve_deletion()
    operator.stop()

    api_server.call("DELETE", going.path)
    api_server.call("DELETE", CRD)
    assert finalizers(armed) == finalizers(going) == [FINALIZER], "held until the operator is back"
    for pipeline in (armed, going):  # no garbage collector runs here
        for component in ("ingest", "query"):
            path = f"{APPS}/namespaces/{pipeline.namespace}/deployments/plant-{component}"
            api_server.call("DELETE", path)
    returned = start_operator(api_server, tmp_path)
    request.addfinalizer(returned.clean_up)
    wait_until(lambda: api_server.find(CRD) is None, deadline=60, what="the CRD to be gone")
    schemas = [one.schema for one in (armed, going)]
    assert database.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", [schemas]) == []
    assert let_go(api_server, tmp_path).returncode == 0, "without the CRD there is nothing to let go"

    wait_until(lambda: not returned.is_running, deadline=60, what="the operator to start anew")
    assert returned.process.returncode == 1
    assert "Traceback" not in returned.logs
    assert "somebody deleted the CRD" in returned.logs

    waiting = start_operator(api_server, tmp_path)  # as the kubelet does
    request.addfinalizer(waiting.clean_up)
    wait_until(lambda: "install the CRD" in waiting.logs, deadline=30, what="the operator to say what it waits for")
    assert (waiting.get("/livez")[0], waiting.get("/readyz")[0]) == (200, 503)
    install_resource(api_server)
    later: Object = make_pipeline().wait_condition("SchemaReady", "True", "Ready", deadline=60)
    assert later["status"] == "True"
    assert waiting.is_running
