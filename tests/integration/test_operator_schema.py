"""Schemas against a real TimescaleDB: made, widened, repaired, refused, dropped."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from sensorlog_operator import connections, schema
from sensorlog_operator.errors import NeedsChangeError, Reason, UnavailableError
from sensorlog_operator.plans import Refusal
from sensorlog_operator.schema import DesiredSchema, Owner
from support.containers import free_port
from support.database import Database

pytestmark = pytest.mark.integration


@pytest.fixture
def desired(database: Database, request: pytest.FixtureRequest) -> Iterator[DesiredSchema]:
    """Yield a schema of the test's own, dropped at the end."""
    name = request.node.name.removeprefix("test_")[:60].split("[")[0]
    owner = Owner(uid=f"uid-{name}", pipeline=f"test/{name}", cluster="test")
    yield DesiredSchema(name, owner, ("temperature", "cpu"), timedelta(days=1))
    database.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


def provision(database: Database, desired: DesiredSchema) -> list[str]:
    """Bring the schema to what is declared; return the plan in words."""
    with connections.connect(database.uri) as connection:
        return [action.summary for action in schema.provision(connection, desired)]


def observe(database: Database, desired: DesiredSchema) -> schema.ObservedSchema:
    """Return what the database has."""
    with connections.connect(database.uri) as connection:
        return schema.observe(connection, desired.name)


def test_a_schema_is_made_whole_and_then_left_alone(database: Database, desired: DesiredSchema) -> None:
    """The second reconcile finds nothing to do: what is observed is what was planned."""
    assert len(provision(database, desired)) == 11
    assert provision(database, desired) == []


def test_the_readings_table_is_a_hypertable_with_one_index(database: Database, desired: DesiredSchema) -> None:
    """And TimescaleDB adds no index of its own."""
    provision(database, desired)
    observed = observe(database, desired)
    assert observed.chunk_interval == timedelta(days=1)
    assert observed.indexes["sensor_data"] == {("sensor_id", "time DESC")}
    assert observed.edition == "apache"


def test_a_new_measurement_widens_the_table_and_keeps_the_rows(database: Database, desired: DesiredSchema) -> None:
    """Old rows have NULL there."""
    provision(database, desired)
    database.execute(f"INSERT INTO {desired.name}.sensor_data VALUES (now(), 1, 20, 30)")
    provision(database, replace(desired, measurements=("temperature", "cpu", "humidity")))
    assert database.execute(f"SELECT temperature, cpu, humidity FROM {desired.name}.sensor_data") == [(20, 30, None)]


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ("DROP INDEX {0}.sensor_data_sensor_id_time_idx", "create index on"),
        ("ALTER TABLE {0}.sensor_data DROP COLUMN cpu", "add column cpu"),
        ("DROP TABLE {0}.dead_letters", "create table"),
        ("SELECT set_chunk_time_interval('{0}.sensor_data', INTERVAL '7 days')", "set the chunk interval"),
        ("COMMENT ON SCHEMA {0} IS NULL", "mark schema"),
        ("ALTER TABLE {0}.sensors DROP COLUMN location", "add column location"),
    ],
)
def test_drift_is_repaired(database: Database, desired: DesiredSchema, drift: str, said: str) -> None:
    """Whatever was changed by hand comes back, and nothing else is touched."""
    provision(database, desired)
    database.execute(drift.format(desired.name))
    repairs = provision(database, desired)
    assert said in repairs[0]
    assert len(repairs) == (2 if "create table" in said else 1)  # a table comes with its index
    assert provision(database, desired) == []


def test_a_plain_table_with_rows_becomes_a_hypertable(database: Database, desired: DesiredSchema) -> None:
    """A hand-made schema of the right shape is adopted with its data."""
    database.execute(f"CREATE SCHEMA {desired.name}")
    database.execute(
        f"CREATE TABLE {desired.name}.sensor_data (time timestamptz NOT NULL, sensor_id bigint NOT NULL,"
        " temperature double precision, cpu double precision)"
    )
    database.execute(f"INSERT INTO {desired.name}.sensor_data VALUES (now(), 1, 20, 30)")
    provision(database, desired)
    assert observe(database, desired).chunk_interval is not None
    assert database.execute(f"SELECT count(*) FROM {desired.name}.sensor_data") == [(1,)]


def test_a_schema_of_another_pipeline_is_not_touched(database: Database, desired: DesiredSchema) -> None:
    """Neither its tables nor its owner change."""
    provision(database, desired)
    before = observe(database, desired)
    thief = replace(desired, owner=Owner("uid-thief", "test/thief", "test"), measurements=("humidity",))
    with connections.connect(database.uri) as connection:
        (refusal,) = schema.provision(connection, thief)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.SCHEMA_OWNED_BY_ANOTHER
    assert observe(database, desired) == before


def test_a_plan_happens_as_a_whole_or_not_at_all(database: Database, desired: DesiredSchema) -> None:
    """A statement that fails leaves nothing half made."""
    with connections.connect(database.uri) as connection:
        actions = schema.plan(desired, schema.observe(connection, desired.name))
        broken = schema.Execute("divide by zero", psycopg.sql.SQL("SELECT 1/0"))
        with pytest.raises(UnavailableError) as failed:
            schema.apply(connection, desired.name, [*actions, broken])
    assert failed.value.reason is Reason.DATABASE_REJECTED
    assert observe(database, desired).exists is False


def test_only_the_owner_drops_a_schema(database: Database, desired: DesiredSchema) -> None:
    """DeletionPolicy Delete of one pipeline never takes another's data."""
    provision(database, desired)
    with connections.connect(database.uri) as connection:
        assert schema.drop(connection, desired.name, "uid-somebody-else") is False
        assert schema.drop(connection, desired.name, desired.owner.uid) is True
        assert schema.drop(connection, desired.name, desired.owner.uid) is False
    assert observe(database, desired).exists is False


def test_a_locked_table_does_not_make_readers_wait_behind_ddl(database: Database, desired: DesiredSchema) -> None:
    """DDL gives up after its lock timeout and is tried again later."""
    provision(database, desired)
    wider = replace(desired, measurements=("temperature", "cpu", "humidity"))
    with psycopg.connect(database.uri) as holder:
        holder.execute(f"SELECT * FROM {desired.name}.sensor_data".encode())
        with pytest.raises(UnavailableError) as waited:
            provision(database, wider)
    assert waited.value.reason is Reason.DATABASE_UNAVAILABLE
    assert provision(database, wider) == [f"add column humidity to {desired.name}.sensor_data"]


def uri_with(database: Database, **parts: Any) -> str:
    """Return the database's URI with other parts."""
    return psycopg.conninfo.make_conninfo(database.uri, **parts)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"password": "wrong"}, Reason.DATABASE_AUTHENTICATION_FAILED),
        ({"user": "nobody"}, Reason.DATABASE_AUTHENTICATION_FAILED),
        ({"dbname": "nowhere"}, Reason.DATABASE_REJECTED),
    ],
)
def test_a_wrong_connection_needs_a_change(database: Database, parts: dict[str, str], reason: Reason) -> None:
    """Each has a reason of its own."""
    with pytest.raises(NeedsChangeError) as refused, connections.connect(uri_with(database, **parts)):
        pass
    assert refused.value.reason is reason


@pytest.mark.parametrize("where", ["127.0.0.1", "no-such-host.invalid"])
def test_a_database_that_is_away_is_unavailable(database: Database, where: str) -> None:
    """A closed port and a name that does not resolve."""
    with (
        pytest.raises(UnavailableError) as away,
        connections.connect(uri_with(database, host=where, port=str(free_port()))),
    ):
        pass
    assert away.value.reason is Reason.DATABASE_UNAVAILABLE


def test_a_user_without_rights_is_told_which(database: Database, desired: DesiredSchema) -> None:
    """And what to grant."""
    database.execute("CREATE ROLE operator_guest LOGIN PASSWORD 'guest'")
    try:
        guest = uri_with(database, user="operator_guest", password="guest")  # noqa: S106 -- of a role this test makes
        with pytest.raises(NeedsChangeError, match="Grant CREATE") as refused, connections.connect(guest) as connection:
            schema.provision(connection, desired)
        assert refused.value.reason is Reason.DATABASE_PERMISSION_DENIED
    finally:
        database.execute("DROP ROLE operator_guest")
