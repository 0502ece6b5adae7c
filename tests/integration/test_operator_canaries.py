"""Canaries through the real broker, ingest, database and query service."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_operator.canaries import Canaries, Route, outcome_of
from sensorlog_operator.errors import Reason
from support.containers import free_port
from support.pipelines import Pipeline
from support.processes import StartService
from support.query import QueryService, query_service
from support.waiting import wait_until

pytestmark = pytest.mark.integration

KEY = "test/plant"


@pytest.fixture
def query(start_service: StartService, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the query service."""
    with query_service(start_service, pipeline) as service:
        yield service


@pytest.fixture
def route(pipeline: Pipeline, query: QueryService) -> Route:
    """Return where canaries go in and come out."""
    return Route(
        kafka_options={"bootstrap.servers": pipeline.config.kafka.bootstrap_servers},
        topic=pipeline.config.kafka.readings_topic,
        partitions=1,
        endpoint=query.target,
        tls=False,
        authority=None,
        interval=0.2,
        patience=5,
    )


def test_a_canary_comes_to_an_answer_and_is_in_no_answer_about_readings(
    pipeline: Pipeline, start_ingest: StartService, query: QueryService, route: Route
) -> None:
    """Neither as a reading nor as a sensor, nor as a dead letter."""
    start_ingest(pipeline)
    outcome = outcome_of(replace(route, patience=30))
    assert outcome.reason is Reason.READY, outcome.message
    assert outcome.seconds is not None
    assert outcome.condition().status
    (canary,) = query.stub.ListCanary(pb.ListCanaryReq()).results
    assert abs(canary.stored_us / 1e6 - time.time()) < 60
    assert not query.stub.ListSensorData(pb.ListSensorDataReq()).results
    assert not query.stub.GetLatestSensorData(pb.GetLatestSensorDataReq()).results
    assert not query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq()).results
    assert not query.stub.ListSensor(pb.ListSensorReq()).results
    assert not list(query.stub.ExportSensorData(pb.ExportSensorDataReq()))
    assert pipeline.dead_letters() == []


def test_where_a_canary_is_lost_is_said(route: Route) -> None:
    """Without ingest it is in no answer, without a query service there is none, without a broker it is not sent."""
    assert outcome_of(route).reason is Reason.CANARY_LOST
    away = outcome_of(replace(route, endpoint=f"127.0.0.1:{free_port()}"))
    assert away.reason is Reason.CANARY_NOT_ANSWERED
    unsent = outcome_of(replace(route, kafka_options={"bootstrap.servers": f"127.0.0.1:{free_port()}"}))
    assert unsent.reason is Reason.CANARY_NOT_SENT
    assert not unsent.condition().status


def test_canaries_are_sent_again_and_again_and_changes_are_told(
    pipeline: Pipeline, start_ingest: StartService, route: Route
) -> None:
    """Lost while ingest is away, back with it; none any more where none is wanted."""
    told: list[str] = []
    canaries = Canaries(told.append)

    def comes_to(reason: Reason) -> None:
        wait_until(
            lambda: canaries.keep(KEY, route),
            lambda outcome: outcome is not None and outcome.reason is reason,
            deadline=60,
            what=f"a canary that is {reason}",
        )

    assert canaries.keep(KEY, route) is None
    ingest = start_ingest(pipeline)
    comes_to(Reason.READY)
    ingest.stop()
    comes_to(Reason.CANARY_LOST)
    start_ingest(pipeline)
    comes_to(Reason.READY)
    assert set(told) == {KEY}
    assert len(told) >= 3
    assert canaries.keep(KEY, None) is None
    assert canaries.keep(KEY, replace(route, interval=60)) is None  # what came before is forgotten
    canaries.keep(KEY, None)
