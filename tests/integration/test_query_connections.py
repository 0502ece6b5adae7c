"""Callers connect anew now and then: so they find new pods, and have left an old one before it ends."""

import time
from typing import Any

import psutil
import pytest

from sensorlog.rpc import logger_pb2 as pb
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, query_service, store

pytestmark = pytest.mark.integration

CONNECTION_SECONDS = 1
WATCHED_SECONDS = 5
ROWS = 1_000_000
"""32 MB: more than the sockets between the two ends hold while nobody reads."""


def callers(query: QueryService) -> set[int]:
    """Return the ports of those who are connected now."""
    port = int(query.target.rpartition(":")[2])
    connections = psutil.Process(query.process.process.pid).net_connections("tcp")
    return {
        c.raddr.port for c in connections if c.laddr.port == port and c.raddr and c.status == psutil.CONN_ESTABLISHED
    }


def test_callers_connect_anew_without_a_failed_call(start_service: Any, pipeline: Pipeline) -> None:
    """One channel, calling all the time, without retries: gRPC moves it by itself."""
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    with query_service(start_service, pipeline, SENSORLOG_CONNECTION_SECONDS=str(CONNECTION_SECONDS)) as query:
        seen: set[int] = set()
        calls, end = 0, time.monotonic() + WATCHED_SECONDS
        while time.monotonic() < end:
            assert len(query.stub.ListSensorData(pb.ListSensorDataReq(), timeout=20).results) == 1
            calls += 1
            seen |= callers(query)
        assert len(seen) > 2
        assert query.process.metric("sensorlog_query_requests_total") == calls


def test_a_stream_outlasts_its_connections_age(start_service: Any, pipeline: Pipeline) -> None:
    """An export that is read slowly goes on on the connection that it began on."""
    pipeline.query(f"INSERT INTO sensor_data SELECT to_timestamp(n), 1, n, n FROM generate_series(1, {ROWS}) n")
    with query_service(start_service, pipeline, SENSORLOG_CONNECTION_SECONDS=str(CONNECTION_SECONDS)) as query:
        stream = query.stub.ExportSensorData(pb.ExportSensorDataReq(), timeout=60)
        first = next(stream)
        before, end = callers(query), time.monotonic() + 60
        while callers(query) <= before and time.monotonic() < end:
            query.stub.ListSensorData(pb.ListSensorDataReq(page_size=1), timeout=20)
        assert before < callers(query)  # the old connection is still there beside a new one
        assert len(first.ts) + sum(len(message.ts) for message in stream) == ROWS
