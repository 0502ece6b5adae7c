"""Reads from a streaming replica: each answer says how old it may be, and nobody gets older data than they accept."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from sensorlog.client import Client, StaleError
from sensorlog.rpc import logger_pb2 as pb
from sensorlog_cli.app import app
from support.containers import ContainerEngine
from support.database import ReplicatedDatabase, replicated_database
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS, Pipeline, PipelineOptions, make_pipeline
from support.processes import StartService
from support.query import CALL_SECONDS, QueryService, query_service, refused, store
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


@pytest.fixture(scope="module")
def pair(engine: ContainerEngine) -> Iterator[ReplicatedDatabase]:
    """Start a primary and a standby for the tests that leave them as they were."""
    with replicated_database(engine) as pair:
        yield pair


@dataclass(frozen=True)
class Replicated:
    """A pipeline whose readings are written to the primary and read from the standby, by a role that may only read."""

    pipeline: Pipeline
    pair: ReplicatedDatabase
    start: StartService

    @contextmanager
    def served(self, *, may_ask_primary: bool = False, **settings: str) -> Iterator[QueryService]:
        """Yield a query service on the standby."""
        directory = self.pipeline.directory / "primary"
        directory.mkdir(exist_ok=True)
        (directory / "uri").write_text(_as_reader(self.pair.primary.uri))
        if may_ask_primary:
            settings["SENSORLOG_PRIMARY_DIR"] = str(directory)
        with query_service(self.start, self.pipeline, wait=True, **settings) as service:
            yield service

    def store(self, *, ts: int = SEED_TS) -> float:
        """Store a reading on the primary; return when it was committed, in seconds since 1970."""
        store(self.pipeline, [(ts, 1, (30.0, 20.0))])
        return time.time()

    def store_caught_up(self) -> None:
        """Store a reading, and wait until the standby has everything."""
        self.store()
        [(end,)] = self.pair.primary.execute("SELECT pg_current_wal_flush_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        wait_until(
            lambda: self.pair.standby.execute(replayed) == [(True,)], deadline=20, what="the standby to catch up"
        )


def _as_reader(uri: str) -> str:
    return make_conninfo(uri, user="reader", password="reader")  # noqa: S106 -- of a database that lives for a test


def _replicated(
    broker: KafkaBroker, pair: ReplicatedDatabase, directory: Path, start_service: StartService
) -> Replicated:
    pipeline = make_pipeline(broker, pair.primary, directory, PipelineOptions(create_topics=False))
    pair.primary.execute(
        "DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'reader'; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    for right in (f"USAGE ON SCHEMA {pipeline.schema}", f"SELECT ON ALL TABLES IN SCHEMA {pipeline.schema}"):
        pair.primary.execute(f"GRANT {right} TO reader")
    pipeline.write_files(_as_reader(pair.standby.uri))
    return Replicated(pipeline, pair, start_service)


@pytest.fixture
def replica(broker: KafkaBroker, pair: ReplicatedDatabase, tmp_path: Path, start_service: StartService) -> Replicated:
    """Return a pipeline read from the standby that has one reading."""
    replica = _replicated(broker, pair, tmp_path, start_service)
    replica.store_caught_up()
    return replica


@pytest.fixture
def short_lived(
    broker: KafkaBroker, replicated: ReplicatedDatabase, tmp_path: Path, start_service: StartService
) -> Replicated:
    """Return the same with servers of its own, for a test that breaks them."""
    replica = _replicated(broker, replicated, tmp_path, start_service)
    replica.store_caught_up()
    return replica


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
    replica.pipeline.write_files(_as_reader(replica.pair.primary.uri))
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
