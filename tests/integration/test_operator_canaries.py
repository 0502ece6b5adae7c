"""Canaries through the real broker, ingest, database and query service."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_operator.canaries import Canaries
from sensorlog_operator.canary_probe import Endpoint, Probe, Route
from sensorlog_operator.errors import Reason
from support.canaries import KEY, a_probe
from support.containers import free_port
from support.pipelines import Pipeline
from support.processes import StartService
from support.query import QueryService, query_service
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration


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
        endpoint=Endpoint(query.target),
        interval=0.2,
        patience=5,
    )


@pytest.fixture
def probe() -> Iterator[Probe]:
    """Return what sends canaries and looks for them."""
    with a_probe() as probe:
        yield probe


def test_a_canary_comes_to_an_answer_and_is_in_no_answer_about_readings(
    pipeline: Pipeline, start_ingest: StartService, query: QueryService, route: Route, probe: Probe
) -> None:
    """Neither as a reading nor as a sensor, nor as a dead letter."""
    start_ingest(pipeline)
    outcome = probe.outcome_of(KEY, replace(route, patience=30))
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


def test_where_a_canary_is_lost_is_said(route: Route, probe: Probe) -> None:
    """Without ingest it is in no answer, without a query service there is none, without a broker it is not sent."""
    assert probe.outcome_of(KEY, route).reason is Reason.CANARY_LOST
    away = probe.outcome_of(KEY, replace(route, endpoint=Endpoint(f"127.0.0.1:{free_port()}")))
    assert away.reason is Reason.CANARY_NOT_ANSWERED
    unsent = probe.outcome_of(KEY, replace(route, kafka_options={"bootstrap.servers": f"127.0.0.1:{free_port()}"}))
    assert unsent.reason is Reason.CANARY_NOT_SENT
    assert not unsent.condition().status


def test_canaries_are_sent_again_and_again_and_changes_are_told(
    pipeline: Pipeline, start_ingest: StartService, route: Route, probe: Probe
) -> None:
    """Lost while ingest is away, back with it; none any more where none is wanted."""
    told: list[str] = []
    canaries = Canaries(probe, told.append)

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
    assert canaries.keep(KEY, None) is None
    opened = (probe._channels._made, probe._senders._made)
    wait_for_value(lambda: [len(each) for each in opened], [0, 0], deadline=30, what="open connections")


def test_connections_are_kept_from_canary_to_canary_and_closed_in_the_end(
    pipeline: Pipeline, start_ingest: StartService, query: QueryService, route: Route, probe: Probe
) -> None:
    """One to the query service for each pipeline; one producer for all pipelines of a cluster."""
    start_ingest(pipeline)
    query.channel.close()
    before, neighbour = producers(), replace(route, endpoint=Endpoint(query.target.replace("127.0.0.1", "localhost")))
    for key, way in ((KEY, route), (KEY, route), ("test/neighbour", neighbour)):
        assert probe.outcome_of(key, replace(way, patience=30)).reason is Reason.READY
    assert (producers() - before, len(connections_to(query.target))) == (1, 2)
    probe.release(KEY)
    assert probe.outcome_of("test/neighbour", neighbour).reason is Reason.READY
    probe.release("test/neighbour")
    wait_for_value(lambda: connections_to(query.target), [], deadline=10, what="connections to the query service")
    wait_for_value(producers, before, deadline=10, what="producers")


def producers() -> int:
    """Return how many Kafka clients this process has: librdkafka gives each a thread of this name."""
    names = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    return names.count("rdk:main")


def connections_to(target: str) -> list[Any]:
    """Return this process's TCP connections to an address."""
    port = int(target.rpartition(":")[2])
    return [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port]
