"""Reads from a streaming replica: each answer says how old it may be, and nobody gets older data than they accept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from typer.testing import CliRunner

from sensorlog.client import Client, StaleError
from sensorlog.rpc import logger_pb2 as pb
from sensorlog_cli.app import app
from support.pipelines import SEED_TS
from support.query import CALL_SECONDS, QueryService, refused
from support.replicas import Replicated
from support.waiting import wait_until

pytestmark = pytest.mark.integration

METHODS = [
    "ListSensor",
    "ListSensorData",
    "GetSensorAvgData",
    "GetSensorAvgAndLatestData",
    "GetLatestSensorData",
    "ExportSensorData",
]
CAUGHT_UP_MS = 3_000
BEHIND_MS = 1_500
FALLBACKS = "sensorlog_query_primary_fallbacks_total"


@dataclass(frozen=True)
class Answer:
    """What a method replied with, and how old it may be in milliseconds."""

    replies: Sequence[Any]
    staleness: int

    @property
    def readings(self) -> int:
        """How many readings an export had."""
        return sum(len(reply.ts) for reply in self.replies)


def _ask(query: QueryService, method: str = "ExportSensorData", accepted: int | None = None) -> Answer:
    metadata = () if accepted is None else (("max-staleness-ms", str(accepted)),)
    request = getattr(pb, f"{method}Req")()
    stub: Any = getattr(query.stub, method)
    if method == "ExportSensorData":
        call = stub(request, timeout=CALL_SECONDS, metadata=metadata)
        replies = list(call)
    else:
        reply, call = stub.with_call(request, timeout=CALL_SECONDS, metadata=metadata)
        replies = [reply]
    trailing: dict[str, Any] = dict(call.trailing_metadata())
    return Answer(replies, int(trailing["staleness-ms"]))


def _older_than(query: QueryService, milliseconds: int) -> Answer:
    return wait_until(
        lambda: _ask(query),
        lambda answer: answer.staleness > milliseconds,
        deadline=20,
        what=f"answers that may be more than {milliseconds} ms old",
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_of_the_primary_is_not_old(replica: Replicated, method: str) -> None:
    """Its staleness is 0, so those get it too who accept no age at all."""
    replica.read_from_primary()
    with replica.served() as query:
        assert _ask(query, method, accepted=0).staleness == 0
        assert query.process.metric("sensorlog_query_staleness_seconds") == 0


def test_an_answer_of_a_replica_says_how_old_it_may_be(replica: Replicated) -> None:
    """Never less than it is: what was committed before is in it."""
    with replica.served() as query:
        assert _ask(query).staleness > 0
        with replica.pair.replay_paused():
            committed = replica.store(ts=SEED_TS + 1)
            for wanted in (BEHIND_MS, 2 * BEHIND_MS):
                answer = _older_than(query, wanted)
                age = (time.time() - committed) * 1000
                assert answer.readings == 1
                assert answer.staleness > age - 100  # less what passed since the answer
        wait_until(
            lambda: query.process.metric("sensorlog_query_staleness_seconds"),
            lambda seconds: seconds > BEHIND_MS / 1000,
            deadline=5,
            what="the metric to tell",
        )


@pytest.mark.parametrize("method", METHODS)
def test_older_data_than_a_call_accepts_are_refused(replica: Replicated, method: str) -> None:
    """With a code that gRPC does not repeat by itself, and both numbers, until the replica has caught up."""
    with replica.served() as query, replica.pair.replay_paused():
        replica.store()
        behind = _older_than(query, BEHIND_MS)
        with pytest.raises(grpc.RpcError) as caught:
            _ask(query, method, accepted=BEHIND_MS)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "max-staleness-ms 1500" in str(caught.value.details())
        told = _detail(caught.value, ErrorInfo()).metadata
        assert int(told["staleness_ms"]) >= behind.staleness
        trailing = {each.key: each.value for each in caught.value.trailing_metadata()}
        assert trailing["staleness-ms"] == told["staleness_ms"]
        assert _ask(query, method, accepted=60_000).staleness > BEHIND_MS


def test_a_replica_that_has_caught_up_serves_again(replica: Replicated) -> None:
    """By itself, with the next transaction of the primary."""
    with replica.served() as query:
        with replica.pair.replay_paused():
            replica.store(ts=SEED_TS + 1)
            _older_than(query, BEHIND_MS)
        replica.store_caught_up()
        answer = wait_until(
            lambda: _ask(query, accepted=BEHIND_MS), deadline=10, what="the replica's answer to be accepted"
        )
        assert answer.readings == 3
        assert answer.staleness > 0


def test_the_primary_answers_where_the_replica_is_too_old(replica: Replicated) -> None:
    """If the service may ask it, and only those who accept no older data."""
    with replica.served(may_ask_primary=True) as query, replica.pair.replay_paused():
        assert _sessions(replica, "sensorlog-query-primary") == 0
        replica.store(ts=SEED_TS + 1)
        assert _older_than(query, BEHIND_MS).readings == 1
        fresh = _ask(query, accepted=BEHIND_MS)
        assert (fresh.readings, fresh.staleness) == (2, 0)
        assert _ask(query).readings == 1
        assert query.process.metric(FALLBACKS) == 1
        assert _sessions(replica, "sensorlog-query-primary") == 1


def _sessions(replica: Replicated, application: str) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return int(replica.pair.primary.execute(statement, [application])[0][0])


def test_a_replica_of_an_idle_primary_is_not_old_where_the_primary_is_asked(replica: Replicated) -> None:
    """It has what there is. Without the primary's word nobody knows, and the answer says the worst."""
    with replica.served(may_ask_primary=True) as asking, replica.served() as alone:
        idle = "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000"
        wait_until(
            lambda: replica.pair.standby.execute(idle)[0][0],
            lambda milliseconds: milliseconds > 2 * CAUGHT_UP_MS,
            deadline=60,
            what="the primary to be idle",
        )
        assert 0 < _ask(asking, accepted=CAUGHT_UP_MS).staleness <= CAUGHT_UP_MS
        assert asking.process.metric(FALLBACKS) == 0
        assert _ask(alone).staleness > 2 * CAUGHT_UP_MS


def test_a_replica_without_connection_to_its_primary_is_not_taken_for_fresh(short_lived: Replicated) -> None:
    """Though it has replayed all that it has received. Without the primary, those who need more are turned away."""
    with short_lived.served() as alone, short_lived.served(may_ask_primary=True) as asking:
        short_lived.pair.stop_replication()
        short_lived.store(ts=SEED_TS + 1)
        for query in (alone, asking):
            assert _older_than(query, BEHIND_MS).readings == 1
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            _ask(alone, accepted=BEHIND_MS)
        assert _ask(asking, accepted=BEHIND_MS).readings == 2
        short_lived.pair.kill_primary()
        with refused(grpc.StatusCode.UNAVAILABLE):
            _ask(asking, accepted=BEHIND_MS)
        assert _ask(asking).readings == 1
        assert asking.process.get("/readyz")[0] == 200


def test_a_promoted_replica_has_no_age(short_lived: Replicated) -> None:
    """The service asks again and again: a failover needs no restart."""
    with short_lived.served() as query:
        assert _ask(query).staleness > 0
        short_lived.pair.fail_over()
        answer = wait_until(lambda: _ask(query, accepted=0), deadline=10, what="the new primary to be known as such")
        assert answer.staleness == 0


@pytest.mark.parametrize("values", [["-1"], ["1.5"], ["soon"], [""], ["9" * 5000], ["1_0"], ["100", "100"]], ids=str)
def test_a_bound_that_is_none_is_refused(replica: Replicated, values: list[str]) -> None:
    """By the key's name."""
    metadata = tuple(("max-staleness-ms", value) for value in values)
    with replica.served() as query, pytest.raises(grpc.RpcError) as caught:
        query.stub.ListSensor(pb.ListSensorReq(), metadata=metadata)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _detail(caught.value, BadRequest()).field_violations[0].field == "max-staleness-ms"


def test_the_python_client_knows_how_old_an_answer_may_be(replica: Replicated) -> None:
    """In seconds, from pages and from exports; and asks for less."""
    with replica.served() as query, Client(query.target) as client:
        assert client.staleness is None
        assert len(client.latest()) == 1
        assert (client.staleness or 0) > 0
        with replica.pair.replay_paused():
            replica.store()
            behind = _older_than(query, BEHIND_MS).staleness / 1000
            assert sum(map(len, client.export())) == 1
            assert (client.staleness or 0) >= behind
            with Client(query.target, max_staleness=BEHIND_MS / 1000) as demanding, pytest.raises(StaleError) as caught:
                list(demanding.export())
            assert (caught.value.staleness or 0) >= behind


def test_the_command_line_shows_nothing_older_than_it_may(replica: Replicated) -> None:
    """It ends with 1, and says why."""
    with replica.served() as query, replica.pair.replay_paused():
        replica.store()
        _older_than(query, BEHIND_MS)
        results = {
            age: CliRunner().invoke(app, ["latest", "--endpoint", query.target, "-o", "json", "--max-staleness", age])
            for age in ("1h", "1500ms", "0s")
        }
        assert [results[age].exit_code for age in results] == [0, 1, 1]
        assert "max-staleness-ms 1500" in results["1500ms"].stderr
        assert results["1500ms"].stdout == ""


def _detail(error: grpc.RpcError, into: Any) -> Any:
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None
    assert status.details[0].Unpack(into)
    return into
