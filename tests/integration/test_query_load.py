"""More than the service can take: it sheds the rest, keeps its memory, and recovers by itself."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from queue import SimpleQueue
from statistics import median
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from sensorlog.client import Client
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.database import Database
from support.deaf import DeafClient
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, query_service, refused, running_statements, store
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

CROWD = 1_000
CHANNELS = 20
STREAMS = 100
TOOLS = 32
MAX_CALLS = 256
MAX_WATCHES = 32
"""Calls that gRPC lets in beside the others, as it cannot tell what they are before a thread has."""
MAX_EXPORTS = 4
DEAF_CROWDS, DEAF_CALLS = 5, 200
PAGE = 10_000
READINGS = 400_000
"""Whose export is larger than all buffers on the way together."""
MEMORY_BOUND = 300 * 1024 * 1024
"""Far below the 512 MiB that a pod has by default."""

OK, BUSY, AWAY = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with one reading of an announced sensor."""
    pipeline = make_pipeline(create_topics=False)
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    pipeline.query("UPDATE sensors SET updated_at = now()")
    return pipeline


@pytest.fixture
def many(pipeline: Pipeline) -> int:
    """Store many readings in one chunk; return how many there are in all."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s + n / 100.0), n %% 100, n, n FROM generate_series(1, %s) n",
        [SEED_TS, READINGS - 1],
    )
    return READINGS


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service, whose memory stays bounded whatever a test does."""
    with query_service(start_service, pipeline) as service:
        yield service
        assert service.process.peak_memory < MEMORY_BOUND


@contextmanager
def _stubs(query: QueryService) -> Iterator[list[LoggerStub]]:
    """Yield stubs with a connection each."""
    with ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(query.target, options)) for _ in range(CHANNELS)]
        yield [LoggerStub(channel) for channel in channels]


def _code(call: Any) -> grpc.StatusCode:
    return cast("grpc.StatusCode", call.code())


def _works(query: QueryService) -> bool:
    return len(query.stub.ListSensorData(pb.ListSensorDataReq(page_size=1, sensor_ids=[1]), timeout=20).results) == 1


@dataclass(frozen=True)
class Latencies:
    """How long calls took, in seconds."""

    seconds: list[float]

    @classmethod
    def measured(cls, query: QueryService, calls: int = 40) -> "Latencies":
        """Make so many small calls, one after the other."""
        return cls([cls._of_one(query) for _ in range(calls)])

    def is_like(self, alone: "Latencies") -> bool:
        """Return whether calls waited for no more than their turn; `alone` says what this machine takes for one."""
        return median(self.seconds) < max(0.5, 10 * median(alone.seconds))

    @staticmethod
    def _of_one(query: QueryService) -> float:
        started = time.perf_counter()
        assert _works(query)
        return time.perf_counter() - started


def test_a_thousand_calls_at_once_are_served_or_turned_away_at_once(query: QueryService, pipeline: Pipeline) -> None:
    """As many as may wait are answered when the database can; the others need not wait to hear that they cannot."""
    alone = Latencies.measured(query)
    with _stubs(query) as stubs:
        with pipeline.locked("sensors"):
            calls = [stub.ListSensor.future(pb.ListSensorReq(), timeout=60) for stub in islice(cycle(stubs), CROWD)]
            turned_away = wait_until(
                lambda: Counter(_code(call) for call in calls if call.done()),
                lambda codes: codes.total() >= CROWD - MAX_CALLS - MAX_WATCHES,
                deadline=20,
                what="calls to end",
            )
            assert set(turned_away) == {BUSY}
            assert query.process.get("/readyz")[0] == 200
        codes = Counter(call.code() for call in calls)  # waits for each
    assert set(codes) == {OK, BUSY}
    assert MAX_CALLS <= codes[OK] <= MAX_CALLS + MAX_WATCHES
    assert all(len(call.result().results) == 1 for call in calls if _code(call) is OK)
    assert Latencies.measured(query).is_like(alone)


def test_a_thousand_callers_who_come_back_are_all_served(query: QueryService, many: int) -> None:
    """None of them hears anything but that the service is busy, and none gets a wrong page."""

    def call(stub: LoggerStub) -> int:
        while True:
            try:
                return len(stub.ListSensorData(pb.ListSensorDataReq(page_size=1000, sensor_ids=[7])).results)
            except grpc.RpcError as e:
                assert _code(e) is BUSY  # noqa: PT017 -- the other codes end the test
                time.sleep(0.2)

    alone = Latencies.measured(query)
    with _stubs(query) as stubs, ThreadPoolExecutor(CROWD) as crowd:
        assert set(crowd.map(call, islice(cycle(stubs), CROWD), timeout=120)) == {1000}
    assert many == READINGS
    assert Latencies.measured(query).is_like(alone)


def test_a_hundred_slow_streams_do_not_slow_down_small_calls(query: QueryService, many: int) -> None:
    """A few run, the rest are told when to come back, and all get their turn."""

    def read_slowly(stub: LoggerStub) -> int:
        while True:
            with _stream(stub) as stream:
                try:
                    return sum(_slow_length(message, pause=0.1) for message in islice(stream, 3))
                except grpc.RpcError as e:
                    assert _code(e) is BUSY  # noqa: PT017 -- the other codes end the test
                    time.sleep(_retry_seconds(e))

    alone = Latencies.measured(query)
    with _stubs(query) as stubs, ThreadPoolExecutor(STREAMS) as readers:
        streams = [readers.submit(read_slowly, stub) for stub in islice(cycle(stubs), STREAMS)]
        wait_until(
            lambda: query.process.metric("sensorlog_query_requests_total", {"code": BUSY.name}),
            lambda busy: busy >= STREAMS - MAX_EXPORTS,
            deadline=20,
            what="streams to be turned away",
        )
        beside = Latencies.measured(query)
        assert not all(stream.done() for stream in streams)
        rows = [stream.result(timeout=120) for stream in streams]
    assert 0 < min(rows) == max(rows) < many
    assert beside.is_like(alone)


@contextmanager
def _stream(stub: LoggerStub) -> Iterator[Any]:
    """Yield an export that is over with this block."""
    stream: Any = stub.ExportSensorData(pb.ExportSensorDataReq(), timeout=120)
    try:
        yield stream
    finally:
        stream.cancel()


def _slow_length(message: pb.ExportSensorDataReply, *, pause: float) -> int:
    time.sleep(pause)  # the slowness that is tested
    return len(message.ts)


def _retry_seconds(error: grpc.RpcError) -> float:
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None
    told = RetryInfo()
    assert status.details[0].Unpack(told)
    seconds: float = told.retry_delay.ToTimedelta().total_seconds()
    assert 0 < seconds < 10
    return seconds


def test_callers_who_never_read_give_their_place_to_others(
    start_service: Any, pipeline: Pipeline, many: int, database: Database
) -> None:
    """Nothing of them is left: no thread, no transaction in the database, no memory."""
    with query_service(start_service, pipeline, SENSORLOG_EXPORT_STALL_SECONDS="2") as query:
        silent = [query.stub.ExportSensorData(pb.ExportSensorDataReq()) for _ in range(MAX_EXPORTS)]
        wait_until(
            lambda: len(running_statements(database)) == MAX_EXPORTS, deadline=10, what="the exports to be at work"
        )
        with refused(BUSY, "exports are running"):
            next(query.stub.ExportSensorData(pb.ExportSensorDataReq()))
        assert _works(query)
        wait_until(lambda: not running_statements(database), deadline=15, what="the exports to be over")
        assert sum(len(reply.ts) for reply in query.stub.ExportSensorData(pb.ExportSensorDataReq())) == many
        for stream in silent:
            with refused(grpc.StatusCode.CANCELLED):
                list(stream)
        assert query.process.peak_memory < MEMORY_BOUND


def test_callers_who_leave_their_replies_with_the_service_are_turned_away(
    query: QueryService, pipeline: Pipeline
) -> None:
    """Replies that wait for their callers count as load, until they are gone: memory is not theirs to fill."""
    store(pipeline, [(SEED_TS + n, 1, (30.0, 20.0)) for n in range(1, PAGE)])
    ended = {"method": "ListSensorData"}
    with DeafClient(query.target) as deaf:
        for crowd in range(1, DEAF_CROWDS + 1):
            for _ in range(DEAF_CALLS):
                deaf.call("ListSensorData", pb.ListSensorDataReq(page_size=PAGE, sensor_ids=[1]))
            wait_for_value(
                lambda: query.process.metric("sensorlog_query_requests_total", ended),
                float(crowd * DEAF_CALLS),
                deadline=60,
                what="how many calls were served or turned away",
            )
        assert query.process.metric("sensorlog_query_requests_total", {**ended, "code": BUSY.name}) > 0
    wait_until(lambda: _works(query), deadline=10, what="calls to be answered")


def test_a_reader_who_is_slow_is_no_stalled_one(start_service: Any, pipeline: Pipeline, many: int) -> None:
    """Only silence counts: the whole stream takes longer than a caller may be silent."""
    with query_service(start_service, pipeline, SENSORLOG_EXPORT_STALL_SECONDS="4") as query:
        started = time.monotonic()
        with _stream(query.stub) as stream:
            assert sum(_slow_length(message, pause=0.5) for message in stream) == many
        assert time.monotonic() - started > 4


def test_the_python_client_goes_on_after_a_pause(start_service: Any, pipeline: Pipeline, many: int) -> None:
    """A program that reads nothing for too long loses its stream, and no reading."""
    resumed: list[int] = []
    with (
        query_service(start_service, pipeline, SENSORLOG_EXPORT_STALL_SECONDS="1") as query,
        Client(query.target) as client,
    ):
        blocks = iter(client.export(on_resumed=lambda ts, _: resumed.append(ts)))
        first = next(blocks)
        ended = {"method": "ExportSensorData", "code": "CANCELLED"}
        wait_for_value(
            lambda: query.process.metric("sensorlog_query_requests_total", ended),
            1.0,
            deadline=15,
            what="streams that the service ended",
        )
        assert len(first) + sum(map(len, blocks)) == many
    assert len(resumed) == 1


def test_reflection_that_stays_open_takes_no_thread_of_calls(query: QueryService) -> None:
    """Some tools keep it open for as long as they run, and each such stream takes a thread."""
    requests: SimpleQueue[ServerReflectionRequest | None] = SimpleQueue()
    stub: Any = ServerReflectionStub(query.channel)
    with ExitStack() as stack:
        for _ in range(TOOLS):
            requests.put(ServerReflectionRequest(list_services=""))
            stream = stub.ServerReflectionInfo(iter(requests.get, None))
            stack.callback(requests.put, None)
            stack.callback(stream.cancel)
        wait_until(requests.empty, deadline=10, what="the streams to be open")
        Latencies.measured(query)


def test_a_database_that_hangs_does_not_keep_calls(query: QueryService, many: int, database: Database) -> None:
    """Callers without a deadline are told within seconds, new ones at once; with the database, everything is back."""
    with _stubs(query) as stubs:
        stream = query.stub.ExportSensorData(pb.ExportSensorDataReq())
        assert len(next(stream).ts) > 0
        with database.frozen():
            calls = [stub.ListSensorData.future(pb.ListSensorDataReq()) for stub in islice(cycle(stubs), CROWD)]
            impatient = query.stub.ListSensorData.future(pb.ListSensorDataReq(), timeout=1)
            wait_until(lambda: all(call.done() for call in calls), deadline=20, what="the calls to end")
            assert set(map(_code, calls)) == {BUSY, AWAY}
            assert _code(impatient) in {grpc.StatusCode.DEADLINE_EXCEEDED, BUSY}
            assert query.process.get("/livez")[0] == 200
            assert query.process.get("/readyz")[0] == 503
            started = time.monotonic()
            with refused(AWAY, "the database hangs"):
                query.stub.ListSensorData(pb.ListSensorDataReq())
            assert time.monotonic() - started < 1
            with refused(AWAY):
                list(stream)
        query.process.wait_ready(deadline=15)
        wait_until(lambda: _works(query), deadline=10, what="calls to be answered")
        assert all(_works(query) for _ in range(40))
        assert sum(len(reply.ts) for reply in query.stub.ExportSensorData(pb.ExportSensorDataReq())) == many
