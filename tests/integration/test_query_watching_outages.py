"""Watches of a database that hangs, and callers who do not read: everybody is told, goes on, and keeps nothing."""

from typing import Any

import grpc
import pytest

from sensorlog.client import Client
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.database import Database
from support.pipelines import Pipeline
from support.processes import StartService
from support.query import query_service
from support.waiting import wait_for_value, wait_until
from support.watching import ARRIVAL_SECONDS, Listener, batch, keys, store, watch

pytestmark = pytest.mark.integration

AWAY, CANCELLED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
FAR_BEHIND = 25
"""Batches; more than the poller reads for one watch."""
CROWDED = 100_000
"""Readings, in bytes more than the network between the service and a caller holds."""


def test_frozen_database_ends_every_watch_and_each_goes_on_afterwards(
    pipeline: Pipeline, start_service: StartService, database: Database
) -> None:
    """Also one that is still catching up, which waits for the database on a connection of its own."""
    with query_service(start_service, pipeline) as service:
        token = watch(service).end()
        for number in range(FAR_BEHIND):
            store(pipeline, *keys(number, 1))
        live = watch(service)
        with pipeline.locked("ingest_batches"):
            behind = Listener(service, pb.WatchSensorDataReq(resume_token=token))
            wait_until(
                lambda: len(pipeline.blocked_sessions("ingest_batches")) == 2, deadline=10, what="both watches to ask"
            )
            with database.frozen():
                assert live.ended(deadline=15) is AWAY
                assert behind.ended(deadline=15) is AWAY
                assert service.process.get("/livez")[0] == 200
        service.process.wait_ready()
        store(pipeline, *keys(FAR_BEHIND, 1))
        watch(service, token=live.token).wait_for(keys(FAR_BEHIND, 1))
        watch(service, token=token).wait_for(keys(0, FAR_BEHIND + 1))


def test_look_that_takes_too_long_ends_the_watch_so_that_it_comes_again(
    pipeline: Pipeline, start_service: StartService
) -> None:
    """Not with DEADLINE_EXCEEDED: that would be the caller's own, after which no client goes on by itself."""
    resumed: list[Exception] = []
    with query_service(start_service, pipeline) as service, Client(service.target) as client:
        listener = watch(service)
        events = client.watch(on_resumed=resumed.append).events()
        next(events)
        with pipeline.locked("ingest_batches"):
            assert listener.ended() is AWAY
        store(pipeline, *keys(0, 1))
        (reading,) = next(event.readings for event in events if event.readings)
        assert (reading.ts, reading.sensor_id) == keys(0, 1)[0]
        assert resumed
        events.close()


def test_readings_that_take_too_long_are_told_as_missed_and_the_watch_goes_on(
    pipeline: Pipeline, start_service: StartService
) -> None:
    """The range says where to find them when the table is free again."""
    with query_service(start_service, pipeline) as service:
        listener = watch(service)
        with batch(pipeline, *keys(1, 2)) as opened, pipeline.locked("sensors"):
            opened.commit()
            wait_until(lambda: listener.missed, deadline=ARRIVAL_SECONDS, what="what is missed")
        times = [ts for ts, _ in keys(1, 2)]
        (missed,) = listener.missed
        assert missed == pb.Missed(
            reason=pb.Missed.REASON_UNREADABLE, start_ts=min(times), end_ts=max(times) + 1, count=None
        )
        store(pipeline, *keys(3, 1))
        listener.wait_for(keys(3, 1))


def test_caller_who_never_reads_gives_its_place_to_others(pipeline: Pipeline, start_service: StartService) -> None:
    """After a while; its token says where to go on. Who reads what little there is keeps it."""
    settings: dict[str, Any] = {"SENSORLOG_EXPORT_STALL_SECONDS": "2", "SENSORLOG_MAX_WATCHES": "2"}
    with query_service(start_service, pipeline, **settings) as service:
        reader = watch(service, 2)
        small_window = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(service.target, small_window) as channel:
            deaf: Any = LoggerStub(channel).WatchSensorData(pb.WatchSensorDataReq())
            token = next(deaf).resume_token
            for start in range(0, CROWDED, 2_000):
                store(pipeline, *keys(start, 2_000))
            ended = {"method": "WatchSensorData", "code": CANCELLED.name}
            wait_for_value(
                lambda: service.process.metric("sensorlog_query_requests_total", ended),
                1.0,
                deadline=ARRIVAL_SECONDS,
                what="watches that the service ended",
            )
            with pytest.raises(grpc.RpcError) as caught:
                list(deaf)
            assert caught.value.code() is CANCELLED
        resumed = watch(service, token=token)
        wait_for_value(lambda: len(resumed.readings), CROWDED, deadline=ARRIVAL_SECONDS, what="the readings")
        assert (reader.error, resumed.missed) == (None, [])
