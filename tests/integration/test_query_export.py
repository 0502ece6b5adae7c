"""Exports hold exactly the table, stop when nobody listens, and are bounded in number."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.exports import MESSAGE_BYTES
from support.database import Database
from support.pipelines import SEED_TS, Pipeline
from support.query import (
    QueryService,
    Reading,
    in_order,
    query_service,
    random_readings,
    refused,
    running_statements,
    store,
)
from support.waiting import wait_until

pytestmark = pytest.mark.integration

MEGABYTE = 1024 * 1024
READINGS = random_readings(4)
MANY = 1_000_000
"""Readings whose export is larger than all buffers on the way together."""

Export = list[pb.ExportSensorDataReply]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service; one export at a time is allowed."""
    with query_service(start_service, pipeline, SENSORLOG_MAX_EXPORTS="1") as service:
        yield service


@pytest.fixture
def many(pipeline: Pipeline) -> int:
    """Store MANY readings, most of them in one chunk."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s + n / 30.0), n %% 100, n, NULLIF(n %% 7, 0)"
        " FROM generate_series(1, %s) n",
        [SEED_TS, MANY],
    )
    return MANY


def _rows(messages: Export) -> list[Reading]:
    """Return an export's rows, NaN as None."""
    rows: list[Reading] = []
    for message in messages:
        values = [[None if math.isnan(v) else v for v in column.values] for column in message.columns]
        rows += list(zip(message.ts, message.sensor_id, zip(*values, strict=True), strict=True))
    return rows


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"sensor_ids": [7, -3, 404]},
        {"start_ts": SEED_TS + 86_400, "end_ts": SEED_TS + 2 * 86_400},
        {"start_ts": SEED_TS + 100_000, "sensor_ids": [1]},
    ],
    ids=str,
)
def test_an_export_equals_the_table(query: QueryService, pipeline: Pipeline, filters: dict[str, Any]) -> None:
    """Every reading once, in order of (time, sensor_id); NaN stands for NULL."""
    store(pipeline, READINGS)
    exported = _rows(list(query.stub.ExportSensorData(pb.ExportSensorDataReq(**filters))))
    low, high = filters.get("start_ts", 0), filters.get("end_ts", 2**40)
    wanted = filters.get("sensor_ids")
    expected = in_order(r for r in READINGS if low <= r[0] < high and (not wanted or r[1] in wanted))
    assert [r[:2] for r in exported] == [r[:2] for r in expected]
    assert in_order(exported) == expected


def test_columns_come_in_the_order_asked_for(query: QueryService, pipeline: Pipeline) -> None:
    """Only those."""
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    [reply] = query.stub.ExportSensorData(pb.ExportSensorDataReq(measurements=["cpu", "temperature"]))
    assert [(c.name, list(c.values)) for c in reply.columns] == [("cpu", [20.0]), ("temperature", [30.0])]
    [reply] = query.stub.ExportSensorData(pb.ExportSensorDataReq(measurements=["cpu"]))
    assert [c.name for c in reply.columns] == ["cpu"]


def test_a_long_export_is_complete_and_its_memory_bounded(query: QueryService, many: int) -> None:
    """In messages that every client accepts; the service grows by far less than the 30 MB it sends."""
    process = psutil.Process(query.process.process.pid)
    list(query.stub.ExportSensorData(pb.ExportSensorDataReq(end_ts=SEED_TS + 600)))  # warms up
    before = process.memory_info().rss
    count = total = largest = peak = 0
    for message in query.stub.ExportSensorData(pb.ExportSensorDataReq()):
        count += len(message.ts)
        total += sum(int(v) for v in message.columns[0].values)
        largest = max(largest, message.ByteSize())
        peak = max(peak, process.memory_info().rss)
    assert (count, total) == (many, many * (many + 1) // 2)
    assert largest < 1.1 * MESSAGE_BYTES
    assert peak - before < 16 * MEGABYTE
    assert query.process.metric("sensorlog_query_rows_returned_total", {"method": "ExportSensorData"}) >= many


@pytest.mark.usefixtures("many")
def test_cancelling_stops_the_copy(query: QueryService, database: Database) -> None:
    """And the service goes on: the connection and the export's place are free again."""
    call = query.stub.ExportSensorData(pb.ExportSensorDataReq())
    next(call)
    assert any("COPY" in statement for statement in running_statements(database))
    call.cancel()
    wait_until(lambda: not running_statements(database), deadline=10, what="the COPY to end")
    _again(query)
    wait_until(
        lambda: query.process.metric("sensorlog_query_requests_total", {"code": "CANCELLED"}) == 1,
        deadline=10,
        what="the export to be counted as cancelled",
    )


@pytest.mark.usefixtures("many")
def test_a_client_that_hangs_up_stops_the_copy(query: QueryService, database: Database) -> None:
    """Without a word of cancelling."""
    with grpc.insecure_channel(query.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = type(query.stub)(channel).ExportSensorData(pb.ExportSensorDataReq())
        next(call)  # and `call` lives on: it would be cancelled with its last reference
        assert any("COPY" in statement for statement in running_statements(database))
    wait_until(lambda: not running_statements(database), deadline=10, what="the COPY to end")


@pytest.mark.usefixtures("many")
def test_a_client_that_never_reads_on_does_not_hold_its_place(
    start_service: Any, pipeline: Pipeline, database: Database
) -> None:
    """After the service's limit the export ends, also where the caller set no deadline."""
    settings: dict[str, Any] = {"SENSORLOG_MAX_EXPORTS": "1", "SENSORLOG_EXPORT_SECONDS": "2"}
    with query_service(start_service, pipeline, **settings) as query:
        call = query.stub.ExportSensorData(pb.ExportSensorDataReq())
        next(call)
        wait_until(lambda: not running_statements(database), deadline=10, what="the COPY to end")
        _again(query)
        with pytest.raises(grpc.RpcError):
            list(call)


@pytest.mark.usefixtures("many")
def test_an_export_above_the_limit_is_refused(query: QueryService) -> None:
    """At once, with the limit, while the one before goes on."""
    first = query.stub.ExportSensorData(pb.ExportSensorDataReq())
    next(first)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "1 exports are running"):
        next(query.stub.ExportSensorData(pb.ExportSensorDataReq()))
    assert query.stub.ListSensorData(pb.ListSensorDataReq(page_size=3)).results
    first.cancel()
    _again(query)


def _again(query: QueryService) -> None:
    """Wait until an export can be started, and read it to its end."""
    request = pb.ExportSensorDataReq(end_ts=SEED_TS + 10)
    wait_until(lambda: list(query.stub.ExportSensorData(request)), deadline=10, what="an export to be possible again")
