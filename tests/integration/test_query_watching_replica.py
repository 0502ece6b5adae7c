"""Watches of a replica: each message says how old its data may be, and nobody is told of older ones than is wanted."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from sensorlog.client import Client, StaleError
from sensorlog.rpc import logger_pb2 as pb
from support.query import refused
from support.replicas import Replicated
from support.waiting import wait_until
from support.watching import ARRIVAL_SECONDS, Key, Listener, keys, store, watch

pytestmark = pytest.mark.integration

STALE = grpc.StatusCode.FAILED_PRECONDITION
ACCEPTED_MS = 3_000
BEHIND_MS = 1_500
FALLBACKS = "sensorlog_query_primary_fallbacks_total"


def older_than(listener: Listener, milliseconds: int) -> int:
    """Wait until a message says that its data may be so old, and return what it says."""
    return wait_until(
        lambda: listener.staleness or 0, lambda ms: ms > milliseconds, deadline=ARRIVAL_SECONDS, what="the staleness"
    )


@contextmanager
def flow(replica: Replicated) -> Iterator[Callable[[], list[Key]]]:
    """Store a reading ten times a second within this block; what it yields ends that and returns all of them."""
    sent: list[Key] = []
    stop = threading.Event()

    def work() -> None:
        for number in itertools.count():
            more = keys(number, 1, sensor_id=7)
            store(replica.pipeline, *more)
            sent.extend(more)
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=work)
    thread.start()

    def stopped() -> list[Key]:
        stop.set()
        thread.join()
        return sent

    try:
        yield stopped
    finally:
        stopped()


def test_watch_of_a_replica_tells_what_its_primary_commits_and_how_old_it_may_be(replica: Replicated) -> None:
    """With each message: little while readings come in, as the replica's last one is of a moment ago."""
    with replica.served() as service:
        listener = watch(service)
        for number in range(5):
            (expected,) = keys(number, 1)
            store(replica.pipeline, expected)
            wait_until(lambda: expected in listener.readings, deadline=5, what="the reading")  # noqa: B023
            assert 0 < (listener.staleness or 0) < ACCEPTED_MS
        listener.end()


def test_watch_of_a_primary_is_never_old(replica: Replicated) -> None:
    """Whoever accepts no age at all gets it."""
    replica.read_from_primary()
    with replica.served() as service:
        listener = watch(service, max_staleness=0)
        store(replica.pipeline, *keys(0, 1))
        listener.wait_for(keys(0, 1))
        assert listener.staleness == 0
        listener.end()


def test_silent_watch_of_a_replica_says_that_it_is_alive_and_how_old_its_data_are(replica: Replicated) -> None:
    """Silence alone would say that nothing was stored. A message comes every ten seconds."""
    with replica.served() as service:
        listener = watch(service)
        with replica.pair.replay_paused():
            began, token = time.monotonic(), listener.token
            store(replica.pipeline, *keys(0, 1))
            wait_until(lambda: listener.token != token, deadline=15, what="a message")
            assert 8 < time.monotonic() - began < 12
            older_than(listener, 7_000)
            assert not listener.readings
        listener.wait_for(keys(0, 1))
        listener.end()


def test_watch_of_data_that_are_too_old_is_refused(replica: Replicated) -> None:
    """Before anything is told, whether it begins now or goes on from a token; with both numbers, as a call is."""
    with replica.served() as service:
        token = watch(service).end()
        with replica.pair.replay_paused():
            store(replica.pipeline, *keys(0, 1))
            behind = watch(service)
            older_than(behind, BEHIND_MS)
            for resumed in ("", token):
                request = pb.WatchSensorDataReq(resume_token=resumed)
                call: Any = service.stub.WatchSensorData(request, metadata=(("max-staleness-ms", str(BEHIND_MS)),))
                with refused(STALE, f"max-staleness-ms {BEHIND_MS}"):
                    next(call)
                status = rpc_status.from_call(cast("grpc.Call", call))
                told = ErrorInfo()
                assert status is not None
                assert status.details[0].Unpack(told)
                assert int(told.metadata["staleness_ms"]) > BEHIND_MS
                trailing = {each.key: each.value for each in call.trailing_metadata()}
                assert trailing["staleness-ms"] == told.metadata["staleness_ms"]
            behind.end()


def test_watch_ends_when_its_data_become_too_old_and_goes_on_from_its_token(replica: Replicated) -> None:
    """Others who accept them hear nothing of it; nothing is lost or told twice."""
    with replica.served() as service:
        patient = watch(service)
        replica.store_caught_up()
        demanding = watch(service, max_staleness=ACCEPTED_MS)
        store(replica.pipeline, *keys(0, 1))
        demanding.wait_for(keys(0, 1))
        with replica.pair.replay_paused():
            store(replica.pipeline, *keys(1, 1))
            assert demanding.ended() is STALE
            assert patient.error is None
        patient.wait_for(keys(0, 2))
        replica.store_caught_up()
        resumed = watch(service, token=demanding.token, max_staleness=ACCEPTED_MS)
        resumed.wait_for(keys(1, 1))
        for listener in (resumed, patient):
            listener.end()


def test_watch_goes_on_at_the_primary_where_the_service_may_ask_it(replica: Replicated) -> None:
    """In mid-stream and at its start; readings that are stored all the while come once each, also those from before."""
    with replica.served(may_ask_primary=True) as service, flow(replica) as stopped:
        listener = watch(service, max_staleness=ACCEPTED_MS)
        wait_until(lambda: len(listener.readings) > 5, deadline=ARRIVAL_SECONDS, what="readings of the replica")
        assert (listener.staleness or 0) > 0
        with replica.pair.replay_paused():
            wait_until(lambda: listener.staleness == 0, deadline=ARRIVAL_SECONDS, what="readings of the primary")
            late = watch(service, max_staleness=ACCEPTED_MS)
            assert late.staleness == 0
            assert service.process.metric(FALLBACKS) == 2
            begun = len(listener.readings)
            wait_until(lambda: len(listener.readings) > begun + 5, deadline=ARRIVAL_SECONDS, what="more of them")
            sent = stopped()
            wait_until(lambda: sent[-1] in listener.readings, deadline=ARRIVAL_SECONDS, what="the last reading")
            first = sent.index(min(listener.readings))
            assert sorted(listener.readings) == sent[first:]
            assert (listener.error, listener.missed) == (None, [])
        for each in (listener, late):
            each.end()


def test_watch_outlasts_the_promotion_of_its_replica(short_lived: Replicated) -> None:
    """Its connection stays, and what is committed there from then on comes too."""
    pair = short_lived.pair
    with short_lived.served() as service:
        listener = watch(service)
        store(short_lived.pipeline, *keys(0, 1))
        listener.wait_for(keys(0, 1))
        pair.fail_over()
        pair.standby.execute(
            f"INSERT INTO {short_lived.pipeline.schema}.ingest_batches (rows, first_time, last_time)"
            " VALUES (0, now(), now())"
        )
        wait_until(lambda: listener.staleness == 0, deadline=ARRIVAL_SECONDS, what="the new primary's word")
        assert (listener.error, listener.missed) == (None, [])
        listener.end()


def test_python_client_says_how_old_what_it_watches_may_be(replica: Replicated) -> None:
    """In seconds, with each event; older than it accepts is an error that trying again does not help."""
    with replica.served() as service, Client(service.target) as client:
        events = client.watch().events()
        assert 0 < (next(events).staleness or 0) < 60
        events.close()
        with replica.pair.replay_paused():
            replica.store()
            behind = watch(service)
            older_than(behind, BEHIND_MS)
            behind.end()
            with Client(service.target, max_staleness=BEHIND_MS / 1000) as demanding, pytest.raises(StaleError):
                next(demanding.watch().events())
