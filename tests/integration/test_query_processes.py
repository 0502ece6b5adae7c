"""Several processes on one port look like one service: they share calls, telemetry and the end."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.database import Database
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, query_service, readings_locked, running_statements, store
from support.waiting import wait_until

pytestmark = pytest.mark.integration

PROCESSES = 2
UP = "sensorlog_query_database_up"
REQUESTS = "sensorlog_query_requests_total"


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    return pipeline


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service when all of its processes answer."""
    with query_service(start_service, pipeline, SENSORLOG_PROCESSES=str(PROCESSES)) as service:
        _wait_all_up(service)
        yield service


def _wait_all_up(query: QueryService) -> None:
    wait_until(lambda: query.process.metric(UP) == PROCESSES, deadline=30, what="all processes to be up")


def _children(query: QueryService) -> list[psutil.Process]:
    children = psutil.Process(query.process.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _call(query: QueryService) -> None:
    """Call on a connection of its own, which the kernel gives to one of the processes."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(query.target, options=options) as channel:
        reply = LoggerStub(channel).ListSensorData(pb.ListSensorDataReq(), timeout=10)
    assert [r.ts for r in reply.results] == [SEED_TS]


def _answered_by(query: QueryService) -> list[float]:
    return [query.process.metric(REQUESTS, {"process": str(number), "code": "OK"}) for number in range(PROCESSES)]


def test_connections_are_shared_out(query: QueryService) -> None:
    """Each process answers some, and the one telemetry port shows the calls of all."""

    def everybody() -> list[float]:
        _call(query)
        return _answered_by(query)

    answered = wait_until(everybody, all, deadline=30, what="a call to reach each process")
    assert query.process.metric(REQUESTS, {"code": "OK"}) == sum(answered)
    assert query.process.get("/livez") == query.process.get("/readyz") == (200, "ok\n")


def test_a_process_that_dies_is_started_again(query: QueryService) -> None:
    """Meanwhile the others answer, and the service is alive and ready."""
    victim = _children(query)[0]
    victim.kill()
    victim.wait(10)
    assert query.process.get("/readyz")[0] == query.process.get("/livez")[0] == 200
    _call(query)
    wait_until(
        lambda: query.process.metric("sensorlog_query_process_restarts_total") == 1,
        deadline=20,
        what="the process to be started again",
    )
    _wait_all_up(query)
    assert len(_children(query)) == PROCESSES
    _call(query)


def test_a_process_that_hangs_is_a_reason_for_a_restart(query: QueryService) -> None:
    """It keeps its share of the connections, so liveness tells; the others are ready all the same."""
    victim = _children(query)[0]
    victim.suspend()
    try:
        status, body = query.process.get("/livez")
        assert (status, body.endswith("does not answer\n")) == (503, True), body
        assert query.process.get("/readyz")[0] == 200
    finally:
        victim.resume()
    wait_until(lambda: query.process.get("/livez")[0] == 200, deadline=10, what="liveness to recover")


def test_a_database_that_is_away_makes_all_unready(query: QueryService, database: Database) -> None:
    """And each process says so."""
    with database.stopped():
        wait_until(lambda: query.process.get("/readyz")[0] == 503, deadline=15, what="the service to be unready")
        assert query.process.get("/readyz")[1].count("process ") == PROCESSES
        assert query.process.get("/livez")[0] == 200
    wait_until(lambda: query.process.get("/readyz")[0] == 200, deadline=30, what="the service to recover")


def test_sigterm_reaches_every_process_and_lets_calls_finish(
    query: QueryService, pipeline: Pipeline, database: Database
) -> None:
    """The service ends with 0 when the last call is answered."""
    children = _children(query)
    with readings_locked(pipeline):
        call = query.stub.ListSensorData.future(pb.ListSensorDataReq())
        wait_until(lambda: running_statements(database), deadline=10, what="the statement to run")
        query.process.send(signal.SIGTERM)
        wait_until(lambda: sum(map(_runs, children)) == 1, deadline=15, what="the idle one to end")
        assert query.process.is_running
    assert len(call.result(timeout=10).results) == 1
    assert query.process.process.wait(15) == 0
    assert not any(map(_runs, children))


def test_no_process_outlives_a_supervisor_that_is_killed(query: QueryService) -> None:
    """A port served by orphans could not be taken again."""
    children = _children(query)
    query.process.kill()
    _gone, alive = psutil.wait_procs(children, timeout=15)
    assert not alive


def test_a_port_in_use_ends_the_service_with_1(start_service: Any, query: QueryService, pipeline: Pipeline) -> None:
    """Sharing is among the processes of one service only."""
    port = query.target.rpartition(":")[2]
    second = start_service("sensorlog_query", pipeline, SENSORLOG_GRPC_PORT=port, SENSORLOG_PROCESSES="2")
    assert second.process.wait(20) == 1
    assert f"cannot listen on port {port}" in second.logs
