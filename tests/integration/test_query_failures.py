"""Bad requests, short deadlines, crowds, and a database that goes away: each has its status code, and passes."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.connections import configure, connection_parameters
from support.database import Database
from support.pipelines import SEED_TS, Pipeline
from support.query import (
    CALL_SECONDS,
    QueryService,
    query_service,
    readings_locked,
    refused,
    running_statements,
    store,
)
from support.waiting import wait_until

pytestmark = pytest.mark.integration

SEED = (SEED_TS, 1, (30.0, 20.0))


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [SEED])
    return pipeline


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service."""
    with query_service(start_service, pipeline) as service:
        yield service


def _works(query: QueryService) -> bool:
    return len(query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS).results) == 1


def _read(query: QueryService, method: str, request: Any) -> None:
    """Call a method and, where it streams, read it to its end: there its error comes."""
    reply = getattr(query.stub, method)(request)
    if method == "ExportSensorData":
        list(reply)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListSensor", pb.ListSensorReq(page=0), "page"),
        ("ListSensor", pb.ListSensorReq(page_size=10_001), "page_size"),
        ("ListSensorData", pb.ListSensorDataReq(end_ts=1, start_ts=2), "end_ts"),
        ("ListSensorData", pb.ListSensorDataReq(page_token="?"), "page_token"),  # noqa: S106 -- no secret
        ("GetSensorAvgData", pb.GetSensorAvgDataReq(bucket_seconds=-1), "bucket_seconds"),
        ("GetSensorAvgAndLatestData", pb.GetSensorAvgAndLatestDataReq(sensor_ids=[1] * 1001), "sensor_ids"),
        ("GetLatestSensorData", pb.GetLatestSensorDataReq(sensor_ids=[1] * 1001), "sensor_ids"),
        ("ExportSensorData", pb.ExportSensorDataReq(measurements=["rpm"]), "measurements"),
    ],
    ids=str,
)
def test_a_bad_request_is_refused_by_the_fields_name(
    query: QueryService, method: str, request_: Any, field: str
) -> None:
    """In the message, and as google.rpc.BadRequest for programs."""
    with pytest.raises(grpc.RpcError) as caught:
        _read(query, method, request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(f"{field}: ")
    detail = BadRequest()
    status = rpc_status.from_call(cast("grpc.Call", caught.value))
    assert status is not None
    status.details[0].Unpack(detail)
    assert detail.field_violations[0].field == field


def test_a_callers_deadline_ends_the_statement(query: QueryService, pipeline: Pipeline, database: Database) -> None:
    """Not only the call: nothing goes on in the database."""
    with readings_locked(pipeline):
        call = query.stub.ListSensorData.future(pb.ListSensorDataReq(), timeout=1)
        wait_until(lambda: running_statements(database), deadline=10, what="the statement to run")
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            call.result()
        wait_until(lambda: not running_statements(database), deadline=5, what="the statement to end")
    assert _works(query)


@pytest.mark.parametrize("method", ["ListSensorData", "GetSensorAvgData", "GetLatestSensorData", "ExportSensorData"])
def test_a_caller_without_a_deadline_has_the_services_limit(
    start_service: Any, pipeline: Pipeline, method: str
) -> None:
    """No call runs for ever."""
    limits: dict[str, Any] = {"SENSORLOG_STATEMENT_SECONDS": "0.5", "SENSORLOG_EXPORT_SECONDS": "0.5"}
    expected = refused(grpc.StatusCode.DEADLINE_EXCEEDED, "narrow the range or allow more time")
    with query_service(start_service, pipeline, **limits) as query, readings_locked(pipeline), expected:
        _read(query, method, getattr(pb, f"{method}Req")())


def test_cancelling_a_call_ends_its_statement(query: QueryService, pipeline: Pipeline, database: Database) -> None:
    """Long before its own time is up."""
    with readings_locked(pipeline):
        call = query.stub.GetSensorAvgData.future(pb.GetSensorAvgDataReq())
        wait_until(lambda: running_statements(database), deadline=10, what="the statement to run")
        call.cancel()
        wait_until(lambda: not running_statements(database), deadline=5, what="the statement to end")
    assert _works(query)


def test_a_call_that_finds_no_connection_is_refused(start_service: Any, pipeline: Pipeline, database: Database) -> None:
    """After a short wait, with RESOURCE_EXHAUSTED; the database is there."""
    pool: dict[str, Any] = {"SENSORLOG_POOL_MIN": "1", "SENSORLOG_POOL_MAX": "1", "SENSORLOG_POOL_WAIT_SECONDS": "0.3"}
    with query_service(start_service, pipeline, **pool) as query:
        with readings_locked(pipeline):
            waiting = query.stub.ListSensorData.future(pb.ListSensorDataReq())
            wait_until(lambda: running_statements(database), deadline=10, what="the statement to run")
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "all database connections are in use"):
                query.stub.ListSensor(pb.ListSensorReq())
        assert len(waiting.result().results) == 1
        assert _works(query)


def test_calls_above_the_limit_are_refused(start_service: Any, pipeline: Pipeline, database: Database) -> None:
    """At once, and only as long as the crowd lasts. gRPC counts calls and watches together."""
    limits: dict[str, Any] = {"SENSORLOG_MAX_CALLS": "1", "SENSORLOG_MAX_WATCHES": "1"}
    with query_service(start_service, pipeline, **limits) as query:
        with readings_locked(pipeline):
            waiting = [query.stub.ListSensorData.future(pb.ListSensorDataReq()) for _ in range(2)]
            wait_until(lambda: len(running_statements(database)) == 2, deadline=10, what="both statements to run")
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                query.stub.ListSensor(pb.ListSensorReq())
        assert [len(call.result().results) for call in waiting] == [1, 1]
        wait_until(lambda: _works(query), deadline=5, what="calls to be accepted")


def test_a_database_that_stops_is_unavailable_until_it_is_back(query: QueryService, database: Database) -> None:
    """The same process recovers by itself, and no call fails afterwards for want of a living connection."""
    assert _works(query)
    with database.stopped():
        for _ in range(5):
            with refused(grpc.StatusCode.UNAVAILABLE, "the database is not available"):
                query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS)
        wait_until(lambda: query.process.get("/readyz")[0] == 503, deadline=10, what="the service to be unready")
        assert query.process.metric("sensorlog_query_database_up") == 0
        assert query.process.get("/livez")[0] == 200
    query.process.wait_ready()
    assert all(_works(query) for _ in range(20))
    assert query.process.metric("sensorlog_query_database_up") == 1


def test_a_service_starts_before_its_database(start_service: Any, pipeline: Pipeline, database: Database) -> None:
    """It lives, is not ready, and becomes ready without a restart."""
    with database.stopped(), query_service(start_service, pipeline, wait=False) as query:
        wait_until(lambda: query.process.get("/livez")[0] == 200, deadline=10, what="the service to live")
        assert query.process.get("/readyz")[0] == 503
        with refused(grpc.StatusCode.UNAVAILABLE):
            query.stub.ListSensor(pb.ListSensorReq(), timeout=CALL_SECONDS, wait_for_ready=True)
        database.container.start()
        database.wait_ready()
        query.process.wait_ready()
        assert _works(query)


def test_a_database_that_hangs_makes_the_service_unready(query: QueryService, database: Database) -> None:
    """Callers get their deadline, and the service recovers when the database goes on."""
    with database.frozen():
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=1)
        wait_until(lambda: query.process.get("/readyz")[0] == 503, deadline=15, what="the service to be unready")
    query.process.wait_ready()
    wait_until(lambda: _works(query), deadline=15, what="calls to be answered")


def test_lost_connections_are_replaced(query: QueryService, database: Database) -> None:
    """A failover that cuts all sessions costs at most the calls that were running."""
    assert _works(query)
    assert database.cut_connections("sensorlog-query") > 0
    wait_until(lambda: _works(query), deadline=10, what="calls to be answered")
    assert query.process.is_running


def test_a_schema_that_is_not_there_yet_is_waited_for(start_service: Any, make_pipeline: Any) -> None:
    """The operator may create it after the service has started."""
    pipeline = make_pipeline(create_topics=False, create_schema=False)
    with query_service(start_service, pipeline, wait=False) as query:
        problem = wait_until(
            lambda: query.process.get("/readyz"),
            lambda reply: "schema is not ready" in reply[1],
            deadline=10,
            what="the reason to be told",
        )
        assert problem[0] == 503
        with refused(grpc.StatusCode.UNAVAILABLE, "schema is not ready"):
            query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=CALL_SECONDS, wait_for_ready=True)
        pipeline.provision_schema()
        query.process.wait_ready()
        assert not query.stub.ListSensorData(pb.ListSensorDataReq()).results


def test_sessions_can_only_read(query: QueryService, database: Database) -> None:
    """Whatever the database user may do."""
    assert _works(query)
    settings = database.execute(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'sensorlog-query%%'"
    )
    assert {name for (name,) in settings} == {"sensorlog-query", "sensorlog-query-watch"}
    with psycopg.connect(database.uri, **connection_parameters("test")) as connection:
        configure(connection)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE public.intruder ()")
