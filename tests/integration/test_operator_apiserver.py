"""The API server restarts, forgets, goes silent, refuses the operator's token, or takes edits all the while.

The resync does not help: it comes after the tests are over.
"""

import base64
import functools
import json
import secrets
import sys
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from support.apiserver import ApiServer, Object
from support.database import Database
from support.kafka import KafkaBroker
from support.linked import LinkedPipelines, Surroundings
from support.links import Link
from support.operated import (
    ACCOUNT,
    CRDS,
    NAMESPACE,
    OperatedPipeline,
    install_resource,
    kubeconfig,
    login,
    pipelines_path,
    start_operator,
)
from support.outages import outlast
from support.processes import ServiceProcess
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

CRD = "sensorlogpipelines.sensorlog.dev"
NEVER = "3600"
"""A resync that is not to help, in seconds."""

SILENCE_SECONDS = 3
NOTICED_SECONDS = SILENCE_SECONDS + 25
"""A watch is opened anew, and calls on kept connections time out, once."""

StartOperator = Callable[..., ServiceProcess]
MakePipeline = Callable[..., OperatedPipeline]

IN_CLUSTER = """
import runpy, sys
from kubernetes.config import incluster_config
folder = sys.argv.pop(1)
incluster_config.SERVICE_TOKEN_FILENAME = folder + "/token"
incluster_config.SERVICE_CERT_FILENAME = folder + "/ca.crt"
runpy.run_module("sensorlog_operator", run_name="__main__", alter_sys=True)
"""
"""Starts the operator as in a pod, whose mounted account is in a folder of the test's."""


@pytest.fixture
def link(api_server: ApiServer) -> Iterator[Link]:
    """Yield the operator's way to the API server; the test has its own."""
    with Link(port_of(api_server)) as link:
        yield link


def port_of(server: ApiServer) -> int:
    """Return the port of this host that the API server listens on."""
    return int(server.url.rpartition(":")[2])


@pytest.fixture
def start(api_server: ApiServer, link: Link, tmp_path: Path) -> Iterator[StartOperator]:
    """Return a function that starts an operator which reaches the API server by the link; it must run to the end."""
    direct = kubeconfig(api_server, tmp_path / "direct")
    linked = tmp_path / "linked"
    linked.write_text(direct.read_text().replace(api_server.url, f"https://127.0.0.1:{link.port}"))
    by_link = {"KUBECONFIG": str(linked), "SENSORLOG_RESYNC_SECONDS": NEVER}
    with ExitStack() as running:

        def start(command: Sequence[str] = (), **settings: str) -> ServiceProcess:
            process = start_operator(api_server, tmp_path, command, **{**by_link, **settings})
            running.callback(process.clean_up)
            return process

        yield start


@pytest.fixture
def make_pipeline(api_server: ApiServer, broker: KafkaBroker, database: Database) -> Iterator[MakePipeline]:
    """Return a factory of pipelines, each in a namespace of its own."""
    user = login(database)
    made: list[OperatedPipeline] = []

    def make(**spec: Any) -> OperatedPipeline:
        namespace = f"plants-{secrets.token_hex(3)}"
        api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        data = {"uri": base64.b64encode(user.uri.encode()).decode()}
        secret = {"metadata": {"name": "timescaledb"}, "data": data}
        api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        made.append(OperatedPipeline(api_server, broker, namespace).create(**spec))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.delete()


def wait_partitions(pipeline: OperatedPipeline, partitions: int, *, deadline: float = 45) -> None:
    """Wait until the operator has made the topic so wide, and says so of the resource as it is now."""

    def seen() -> tuple[Any, bool]:
        resource = pipeline.get()
        status = resource.get("status") or {}
        return status.get("partitions"), status.get("observedGeneration") == resource["metadata"]["generation"]

    wait_for_value(seen, (partitions, True), deadline=deadline, what=f"partitions of {pipeline.path}")


def widen(pipeline: OperatedPipeline, partitions: int) -> None:
    """Ask for more partitions."""
    pipeline.change(kafka={"readings": {"partitions": partitions}})


def wait_served(server: ApiServer) -> None:
    """Wait until an API server that was started again has read what there is."""
    wait_until(lambda: server.call("GET", pipelines_path("default")), deadline=60, what="the API server")


# Restarts


def test_a_restart_is_outlasted_by_who_has_nothing_to_do(
    api_server: ApiServer, start: StartOperator, make_pipeline: MakePipeline
) -> None:
    """Afterwards it sees what is changed and what is new, and was alive all the while."""
    operator = start().wait_ready()
    pipeline = make_pipeline()
    wait_partitions(pipeline, 4)
    with api_server.killed():
        assert operator.get("/livez") == (200, "ok\n")
    wait_served(api_server)
    widen(pipeline, 5)
    wait_partitions(pipeline, 5)
    wait_partitions(make_pipeline(), 4)
    assert operator.is_running
    assert operator.get("/livez") == (200, "ok\n")


def test_a_restart_in_the_middle_of_reconciles_is_outlasted(
    api_server: ApiServer, start: StartOperator, make_pipeline: MakePipeline
) -> None:
    """Whatever was under way is brought to its end."""
    operator = start().wait_ready()
    pipelines = [make_pipeline() for _ in range(6)]
    wait_until(
        lambda: any(one.child("/api/v1", "serviceaccounts", "ingest") for one in pipelines),
        deadline=45,
        what="a reconcile in its middle",
    )
    with api_server.killed():
        pass
    for pipeline in pipelines:
        wait_partitions(pipeline, 4, deadline=60)
        pipeline.wait_child("/apis/apps/v1", "deployments", "query")
    assert operator.is_running
    assert operator.get("/livez") == (200, "ok\n")
    assert "bug of the operator" not in operator.logs


def test_an_operator_that_starts_first_waits(link: Link, start: StartOperator, make_pipeline: MakePipeline) -> None:
    """It is alive and not ready, and begins by itself; told to stop before, it stops."""
    with link.away():
        waiting = start()
        wait_until(lambda: waiting.get("/livez")[0] == 200, deadline=30, what="liveness")
        status, why = waiting.get("/readyz")
        assert (status, "has not read the pipelines" in why) == (503, True)
        wait_until(lambda: "startup" in waiting.logs, deadline=30, what="an attempt")
        assert waiting.stop() == 0
        operator = start()
        wait_until(lambda: operator.get("/livez")[0] == 200, deadline=30, what="liveness")
    operator.wait_ready()
    wait_partitions(make_pipeline(), 4)


# What the API server forgets


def test_changes_that_the_api_server_forgot_are_seen(
    api_server: ApiServer, link: Link, start: StartOperator, make_pipeline: MakePipeline
) -> None:
    """It answers 410 Gone: what was changed, made and deleted meanwhile is learned from a new list."""
    operator = start().wait_ready()
    changed, deleted = make_pipeline(), make_pipeline()
    wait_partitions(changed, 4)
    wait_partitions(deleted, 4)
    with link.away():
        version = changed.get()["metadata"]["resourceVersion"]
        widen(changed, 5)
        deleted.delete()
        made = make_pipeline()
        with api_server.killed():
            pass
        wait_served(api_server)
        wait_until(lambda: gone(api_server, version), deadline=30, what="a watch that is too old to be told so")
    wait_partitions(changed, 5)
    wait_partitions(made, 4)
    wait_for_value(
        lambda: operator.metric("sensorlog_operator_pipelines"),
        2.0,
        deadline=NOTICED_SECONDS,
        what="the pipelines known",
    )
    assert operator.is_running


def gone(server: ApiServer, version: str) -> bool:
    """Return whether a watch from this version on is told that it is too old."""
    path = f"/apis/sensorlog.dev/v1alpha1/sensorlogpipelines?watch=true&resourceVersion={version}&timeoutSeconds=5"
    event: Object = server.call("GET", path)
    return bool(event["type"] == "ERROR" and event["object"]["code"] == HTTPStatus.GONE)


# Silence


def test_a_watch_that_went_silent_is_opened_anew(link: Link, start: StartOperator, make_pipeline: MakePipeline) -> None:
    """No connection was closed: an edit is noticed when nothing was heard for as long as is set."""
    start(SENSORLOG_WATCH_SILENCE_SECONDS=str(SILENCE_SECONDS)).wait_ready()
    pipeline = make_pipeline()
    wait_partitions(pipeline, 4)
    assert link.silence() > 3, "there were no watches"
    widen(pipeline, 5)
    wait_partitions(pipeline, 5, deadline=NOTICED_SECONDS)


# Tokens


@pytest.fixture
def account(api_server: ApiServer, tmp_path: Path) -> Path:
    """Return a folder as it is mounted into pods, with a token of the operator's account."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(api_server.authority.certificate)
    write_token(api_server, folder)
    return folder


def write_token(server: ApiServer, folder: Path) -> str:
    """Swap a new token of the operator's account in, as the kubelet does; return it."""
    token = server.token({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE})
    (folder / "new").write_text(token)
    (folder / "new").replace(folder / "token")
    return token


def refuse_token(server: ApiServer, token: str) -> None:
    """Make the API server refuse a token: the account is another one of the same name, with the same rights."""
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    server.call("DELETE", f"{path}/{ACCOUNT}")
    server.call("POST", path, {"metadata": {"name": ACCOUNT}})
    wait_until(lambda: not accepts(server, token), deadline=60, what="the token to be refused")


def accepts(server: ApiServer, token: str) -> bool:
    """Return whether a token lets anybody in."""
    try:
        server.call("GET", pipelines_path("default"), token=token)
    except urllib.error.HTTPError as e:
        with e:
            return e.code != HTTPStatus.UNAUTHORIZED
    return True


def test_an_expired_token_is_replaced_by_the_one_that_is_mounted(
    api_server: ApiServer, link: Link, start: StartOperator, make_pipeline: MakePipeline, account: Path
) -> None:
    """Of watches and of calls; until it is there they wait for it, however long."""
    token = (account / "token").read_text()
    command = [sys.executable, "-c", IN_CLUSTER, str(account)]
    at = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(link.port), "KUBECONFIG": ""}
    operator = start(command=command, **at).wait_ready()
    pipeline = make_pipeline()
    wait_partitions(pipeline, 4)
    refuse_token(api_server, token)
    link.cut_connections()
    before = refusals(operator)
    wait_until(lambda: refusals(operator) > before + 2, deadline=45, what="the operator to be refused again and again")
    widen(pipeline, 5)
    write_token(api_server, account)
    wait_partitions(pipeline, 5)
    wait_partitions(make_pipeline(), 4)
    assert operator.is_running
    assert operator.get("/livez") == (200, "ok\n")


def refusals(operator: ServiceProcess) -> int:
    """Return how often the operator said that its token was refused."""
    return operator.logs.count("the API server refuses the token")


# Edits


def test_the_last_of_many_edits_holds(
    api_server: ApiServer, broker: KafkaBroker, database: Database, start: StartOperator
) -> None:
    """While a reconcile waits in its middle, and while others go on; status never claims what is not there."""
    start().wait_ready()
    with LinkedPipelines(Surroundings(api_server, broker, database, login(database))) as pipelines:
        one = pipelines.make()
        one.wait_provisioned()
        one.kafka.hold()
        requests = one.kafka.requests
        widen(one.pipeline, 5)
        wait_until(lambda: one.kafka.requests > requests, deadline=30, what="a reconcile that waits for Kafka")
        widen(one.pipeline, 6)
        one.pipeline.change(measurements=[{"name": "temperature"}, {"name": "humidity"}])
        one.kafka.restore()
        for partitions in range(7, 12):
            widen(one.pipeline, partitions)
            resource = one.pipeline.get()
            if resource["status"]["observedGeneration"] == resource["metadata"]["generation"]:
                assert resource["status"]["partitions"] == partitions
        one.wait_provisioned()
        assert one.pipeline.status()["partitions"] == 11
        world = one.world()
        assert world["topics"]["NAMESPACE.plant.readings"][0] == 11
        assert "humidity" in world["database"]["tables"]["sensor_data"]
        assert '"humidity"' in json.dumps(world["children"]).replace("\\", "")


# Liveness


def test_who_has_nothing_to_do_is_alive(start: StartOperator) -> None:
    """For longer than a reconcile may take."""
    operator = start(SENSORLOG_STUCK_SECONDS="1").wait_ready()
    outlast(operator, 3)


def test_without_the_crd_the_operator_waits_for_it(
    api_server: ApiServer, start: StartOperator, make_pipeline: MakePipeline, request: pytest.FixtureRequest
) -> None:
    """It ends where it watched, for the kubelet to start it anew; the next one is alive and begins by itself."""
    before = start().wait_ready()
    api_server.call("DELETE", f"{CRDS}/{CRD}")
    put_back = functools.partial(install_again, api_server)
    request.addfinalizer(put_back)
    wait_until(lambda: not before.is_running, deadline=60, what="the operator to end")
    assert before.process.returncode != 0
    operator = start()
    wait_until(lambda: operator.get("/livez")[0] == 200, deadline=30, what="liveness")
    assert operator.get("/readyz")[0] == 503
    put_back()
    operator.wait_ready()
    wait_partitions(make_pipeline(), 4)


def install_again(server: ApiServer) -> None:
    """Install the CRD, once it is gone where it is going."""
    found = server.find(f"{CRDS}/{CRD}")
    if found and "deletionTimestamp" not in found["metadata"]:
        return
    wait_until(lambda: server.find(f"{CRDS}/{CRD}") is None, deadline=60, what="the CRD to go")
    install_resource(server)
