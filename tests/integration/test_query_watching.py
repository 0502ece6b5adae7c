"""A watch hears of every committed reading once: across servers that end, callers that go, commits out of order."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest

from sensorlog.measurements import Measurement
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog_query.watching_position import decode, encode
from support.letters import replay
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.query import QueryService, query_service, refused
from support.waiting import wait_for_value, wait_until
from support.watching import ARRIVAL_SECONDS, Key, batch, keys, store, values, watch

pytestmark = pytest.mark.integration


def test_reading_arrives_within_a_second_of_its_commit(pipeline: Pipeline, start_service: StartService) -> None:
    """Commits are looked for four times a second."""
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        delays = []
        for number in range(10):
            (expected,) = keys(number, 1)
            store(pipeline, expected)
            committed = time.monotonic()
            wait_until(lambda: expected in listener.readings, deadline=5, what="the reading")  # noqa: B023
            delays.append(time.monotonic() - committed)
        assert max(delays) < 1, delays


def test_what_ingest_stores_arrives_once_of_the_sensors_watched(
    make_pipeline: MakePipeline, start_service: StartService, start_ingest: StartService
) -> None:
    """Old readings too, and those beside one that the database refuses: they are all committed now."""
    pipeline = make_pipeline(partitions=2)
    pipeline.query("ALTER TABLE sensor_data ADD CHECK (sensor_id <> 666)")
    start_ingest(pipeline)
    with query_service(start_service, pipeline) as service:
        all_of_them, of_one = watch(service), watch(service, 2)
        late = [(SEED_TS - 400 * 86_400, 2)]
        good = [*keys(0, 500), *keys(0, 300, sensor_id=2), *late]
        pipeline.produce([values(good[start : start + 100]) for start in range(0, len(good), 100)])
        all_of_them.wait_for(good)
        poisoned = [*keys(1_000, 50), (SEED_TS, 666), *keys(1_000, 50, sensor_id=2)]
        pipeline.produce([values(poisoned)])
        expected = good + [key for key in poisoned if key[1] != 666]
        all_of_them.wait_for(expected)
        of_one.wait_for([key for key in expected if key[1] == 2])
        assert not all_of_them.missed


def test_transactions_that_commit_out_of_order_are_all_seen(pipeline: Pipeline, start_service: StartService) -> None:
    """The one with the smallest id commits last, after a resumption too, which must not take it for seen."""
    first, second, third = keys(0, 3)
    store(pipeline, *keys(3, 1))  # who makes a chunk lets nobody else write into it until the commit
    with query_service(start_service, pipeline) as service, batch(pipeline, first) as slow:
        listener = watch(service)
        store(pipeline, second)
        listener.wait_for([second])
        resumed = watch(service, token=listener.end())
        store(pipeline, third)
        resumed.wait_for([third])
        slow.commit()
        resumed.wait_for([third, first])


def test_batch_that_is_rolled_back_is_never_told(pipeline: Pipeline, start_service: StartService) -> None:
    """Only what is committed counts."""
    never, stored = keys(0, 2)
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        with batch(pipeline, never) as dropped:
            dropped.connection.rollback()
        store(pipeline, stored)
        listener.wait_for([stored])


@pytest.fixture
def flowing(
    make_pipeline: MakePipeline, start_ingest: StartService
) -> Iterator[tuple[Pipeline, Callable[[], list[Key]]]]:
    """Yield a pipeline into which readings flow, and a function that stops the flow and returns all of them."""
    pipeline = make_pipeline(partitions=2)
    start_ingest(pipeline)
    sent: list[Key] = []
    stop = threading.Event()

    def flow() -> None:
        for number in itertools.count():
            more = keys(number * 50, 50, sensor_id=number % 5)
            pipeline.produce([values(more)])
            sent.extend(more)
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=flow)
    thread.start()

    def stopped() -> list[Key]:
        stop.set()
        thread.join()
        wait_for_value(pipeline.count, len(sent), deadline=30, what="the readings stored")
        return sent

    yield pipeline, stopped
    stop.set()
    thread.join()


def test_watch_goes_on_after_its_server_was_killed_while_readings_flow(
    flowing: tuple[Pipeline, Callable[[], list[Key]]], start_service: StartService
) -> None:
    """Every reading once, over three servers: killed twice, each time in the middle."""
    pipeline, stop = flowing
    watched: list[Key] = []
    token = ""
    for life in range(3):
        with query_service(start_service, pipeline) as service:
            listener = watch(service, token=token)
            if life == 0:
                begun_at = pipeline.count()
            wait_until(lambda: len(listener.readings) > 300, deadline=ARRIVAL_SECONDS, what="readings")  # noqa: B023
            if life < 2:
                service.process.kill()
                wait_until(lambda: listener.error, deadline=ARRIVAL_SECONDS, what="the end")  # noqa: B023
                watched, token = watched + listener.readings, listener.token
            else:
                sent = stop()
                want = Counter(sent)
                wait_until(
                    lambda: set(watched + listener.readings) >= {key for key, _ in want.items() if key in sent[-50:]},  # noqa: B023
                    deadline=ARRIVAL_SECONDS,
                    what="the last readings",
                )
                watched += listener.readings
    came = Counter(watched)
    assert not [key for key, count in came.items() if count > 1]
    assert len(sent) - len(came) <= begun_at, "readings after the watch began are missing"


def test_watch_goes_on_after_its_caller_was_gone_for_a_while(
    flowing: tuple[Pipeline, Callable[[], list[Key]]], start_service: StartService
) -> None:
    """What was stored in between comes first, more batches than one look takes, then the rest: each reading once."""
    pipeline, stop = flowing
    with query_service(start_service, pipeline) as service:
        first = watch(service)
        wait_until(lambda: len(first.readings) > 100, deadline=ARRIVAL_SECONDS, what="readings")
        token = first.end()
        batches = "SELECT count(*) FROM ingest_batches"
        before = pipeline.query(batches)[0][0]
        wait_until(lambda: pipeline.query(batches)[0][0] > before + 30, deadline=60, what="batches in between")
        second = watch(service, token=token)
        sent = stop()
        missing = set(sent[-200:])
        wait_until(lambda: missing <= set(second.readings), deadline=ARRIVAL_SECONDS, what="the last readings")
        came = Counter(first.readings + second.readings)
        assert set(came.values()) == {1}
        start = min(sent.index(key) for key in first.readings)
        assert set(sent[sent.index(first.readings[-1]) :]) <= set(came)
        assert start >= 0


def test_slow_watcher_is_told_what_it_missed(pipeline: Pipeline, start_service: StartService) -> None:
    """What came and what was missed are everything together; others notice nothing."""
    with query_service(start_service, pipeline, SENSORLOG_WATCH_BUFFER="30000") as service:
        quick = watch(service)
        small_window = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(service.target, small_window)
        slow: Any = LoggerStub(channel).WatchSensorData(pb.WatchSensorDataReq())
        first = next(slow)
        assert first.resume_token
        expected: list[Key] = []
        for number in range(100):  # megabytes, of which the network buffers little
            more = keys(number * 2_000, 2_000)
            store(pipeline, *more)
            expected += more
            if number % 10 == 9:
                wait_for_value(lambda: len(quick.readings), len(expected), deadline=ARRIVAL_SECONDS, what="the others'")
        assert sorted(quick.readings) == sorted(expected)
        assert not quick.missed
        came, missed = 0, 0
        while came + missed < len(expected):
            reply = next(slow)
            came += len(reply.results)
            if reply.HasField("missed"):
                assert reply.missed.reason == pb.Missed.REASON_SLOW_READER
                in_range = [ts for ts, _ in expected if reply.missed.start_ts <= ts < reply.missed.end_ts]
                assert len(in_range) == reply.missed.count
                missed += reply.missed.count
        channel.close()
        assert missed > 0
        assert came + missed == len(expected)


def test_token_that_is_too_old_is_told(pipeline: Pipeline, start_service: StartService) -> None:
    """Nobody knows what was stored since, so nothing is said of it but that; the watch goes on from now."""
    with query_service(start_service, pipeline) as service:
        store(pipeline, *keys(0, 1))
        token = aged(watch(service).end(), pipeline.schema, hours=2)
        listener = watch(service, token=token)
        wait_until(lambda: listener.missed, deadline=ARRIVAL_SECONDS, what="the gap")
        assert listener.missed == [pb.Missed(reason=pb.Missed.REASON_TOKEN_EXPIRED)]
        store(pipeline, *keys(1, 1))
        listener.wait_for(keys(1, 1))


def aged(token: str, schema: str, *, hours: int) -> str:
    """Return a token as it would have been given hours ago."""
    position = decode(token, schema)
    return encode(replace(position, told_us=position.told_us - hours * 3_600_000_000), schema)


def test_database_that_lost_what_was_told_is_noticed(pipeline: Pipeline, start_service: StartService) -> None:
    """After a restore, ids of transactions are given again: to go on silently would lose the batches that get them."""
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        store(pipeline, *keys(0, 1))
        listener.wait_for(keys(0, 1))
        pipeline.query("DELETE FROM ingest_batches")
        wait_until(lambda: listener.missed, deadline=ARRIVAL_SECONDS, what="the gap")
        assert listener.missed[0].reason == pb.Missed.REASON_DATABASE_CHANGED
        resumed = watch(service, token=listener.end())
        store(pipeline, *keys(1, 1))
        resumed.wait_for(keys(1, 1))


def test_token_of_another_pipeline_is_refused(make_pipeline: MakePipeline, start_service: StartService) -> None:
    """Its ids say nothing here; the field is named."""
    here, there = make_pipeline(), make_pipeline()
    with query_service(start_service, here) as service, query_service(start_service, there) as other:
        token = watch(other).end()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "resume_token: of another pipeline"):
            list(service.stub.WatchSensorData(pb.WatchSensorDataReq(resume_token=token)))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "resume_token: not a token"):
            list(service.stub.WatchSensorData(pb.WatchSensorDataReq(resume_token="nonsense")))  # noqa: S106 -- no secret


def test_watches_above_the_limit_are_refused_and_calls_go_on(pipeline: Pipeline, start_service: StartService) -> None:
    """Watches have threads of their own: as many of them as there are workers take nothing from calls."""
    settings: dict[str, Any] = {"SENSORLOG_MAX_WATCHES": "6", "SENSORLOG_WORKERS": "2", "SENSORLOG_MAX_EXPORTS": "1"}
    with query_service(start_service, pipeline, **settings) as service, ExitStack() as watches:
        listeners = [watch(service) for _ in range(6)]
        for listener in listeners:
            watches.callback(listener.end)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "6 watches are running"):
            list(service.stub.WatchSensorData(pb.WatchSensorDataReq()))
        assert not service.stub.ListSensorData(pb.ListSensorDataReq(), timeout=10).results
        listeners[0].end()
        wait_until(lambda: watch(service).end(), deadline=ARRIVAL_SECONDS, what="a free place")


def test_watch_ends_at_once_when_the_server_stops(pipeline: Pipeline, start_service: StartService) -> None:
    """UNAVAILABLE, with a token to go on from elsewhere; nobody has to wait for the time that calls are given."""
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        began = time.monotonic()
        assert service.process.stop() == 0
        assert time.monotonic() - began < 10
        wait_until(lambda: listener.error, deadline=5, what="the end")
        assert listener.error is not None
        assert listener.error.code() == grpc.StatusCode.UNAVAILABLE


def test_database_that_goes_away_ends_a_watch_that_can_be_resumed(
    pipeline: Pipeline, start_service: StartService
) -> None:
    """A caller who is told nothing would believe that nothing happens."""
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        pipeline.database.cut_connections("sensorlog-query-watching")
        wait_until(lambda: listener.error, deadline=ARRIVAL_SECONDS, what="the end")
        assert listener.error is not None
        assert listener.error.code() == grpc.StatusCode.UNAVAILABLE
        store(pipeline, *keys(0, 2))
        watch(service, token=listener.token).wait_for(keys(0, 2))


def test_watch_moves_between_processes(pipeline: Pipeline, start_service: StartService) -> None:
    """A token of one process holds in any other."""
    with query_service(start_service, pipeline, SENSORLOG_PROCESSES="2") as service:
        token = ""
        for number in range(6):  # a new connection each, which the kernel gives to either
            store(pipeline, *keys(number, 1))
            with grpc.insecure_channel(service.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                other = QueryService(service.process, channel, type(service.stub)(channel), service.target)
                listener = watch(other, token=token)
                if token:
                    listener.wait_for(keys(number, 1))
                token = listener.end()


def test_batches_are_forgotten_after_an_hour_and_watches_go_on(
    pipeline: Pipeline, start_ingest: StartService, start_service: StartService
) -> None:
    """Also one of a pipeline that was silent for so long: that its last batch is gone makes it no other database."""
    store(pipeline, *keys(0, 1))
    store(pipeline, *keys(1, 1))
    pipeline.query("UPDATE ingest_batches SET committed_at = committed_at - interval '2 hours'")
    old = "SELECT count(*) FROM ingest_batches WHERE committed_at < now() - interval '1 hour'"
    expected: list[Key] = []
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        token = listener.token
        for left in (1, 0):  # the newest stays until there is another
            ingest = start_ingest(pipeline)
            more = keys(10 - left, 1)
            pipeline.produce([values(more)])
            expected += more
            listener.wait_for(expected)
            assert pipeline.query(old) == [(left,)]
            ingest.stop()
        assert not listener.missed
        resumed = watch(service, token=token)
        resumed.wait_for(expected)
        assert not resumed.missed


def test_replayed_dead_letters_are_told(
    make_pipeline: MakePipeline, start_ingest: StartService, start_service: StartService
) -> None:
    """They are stored now, however old they are, and by another process than ingest."""
    narrow = (Measurement(name="temperature", max=50), Measurement(name="cpu"))
    pipeline = make_pipeline(measurements=narrow)
    start_ingest(pipeline)
    hot, right = keys(0, 3), keys(3, 1)
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        pipeline.produce([[{**reading, "temperature": 100} for reading in values(hot)], values(right)])
        listener.wait_for(right)
        wide = pipeline.config.model_copy(update={"measurements": (Measurement(name="temperature"), narrow[1])})
        replace(pipeline, config=wide).write_files(pipeline.database.uri)
        assert replay(pipeline)[0].readings == len(hot)
        listener.wait_for(right + hot)
        assert not listener.missed
