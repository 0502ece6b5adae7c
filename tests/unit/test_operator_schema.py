"""The plan of a schema: what is said and done for each state of the database. No database is needed to plan."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from sensorlog_operator import connections, schema
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.plans import Refusal
from sensorlog_operator.schema import DesiredSchema, ObservedSchema, Owner

OWNER = Owner(uid="uid-1", pipeline="default/plant", cluster="cluster-1")
DESIRED = DesiredSchema("plant", OWNER, ("temperature", "cpu"), timedelta(days=1), frozenset({"uid-1"}))
EMPTY = ObservedSchema(timescaledb_version="2.19.3", timescaledb_available=True, edition="apache")


def provisioned(**changes: Any) -> ObservedSchema:
    """Return a database in which everything is as desired, but for `changes`."""
    complete = replace(
        EMPTY,
        exists=True,
        comment=OWNER.to_comment(),
        tables={t.name: {c.name: c.type for c in t.columns} for t in DESIRED.tables},
        primary_keys={t.name: t.primary_key for t in DESIRED.tables if t.primary_key},
        indexes={table: frozenset({columns}) for table, columns in schema.INDEXES.items()},
        chunk_interval=timedelta(days=1),
    )
    return replace(complete, **changes)


def summaries(observed: ObservedSchema, desired: DesiredSchema = DESIRED) -> list[str]:
    """Return the plan in words."""
    return [action.summary for action in schema.plan(desired, observed)]


def refusal(observed: ObservedSchema, desired: DesiredSchema = DESIRED) -> Refusal:
    """Return the only action of a plan, which must be a refusal."""
    (action,) = schema.plan(desired, observed)
    assert isinstance(action, Refusal)
    return action


def test_nothing_is_planned_where_everything_is_there() -> None:
    """A reconcile without a change does nothing."""
    assert summaries(provisioned()) == []


def test_an_empty_database_gets_everything_in_order() -> None:
    """Schema before tables, table before hypertable, hypertable before index."""
    assert summaries(EMPTY) == [
        "create schema plant",
        "mark schema plant as owned by default/plant",
        "create table plant.sensors",
        "create table plant.ingest_offsets",
        "create table plant.dead_letters",
        "create table plant.ingest_batches",
        "create table plant.canaries",
        "create table plant.sensor_data",
        "make plant.sensor_data a hypertable with chunks of 1 day, 0:00:00",
        "create index on plant.sensor_data (sensor_id, time DESC)",
        "create index on plant.dead_letters (received_at)",
    ]


def test_a_missing_extension_is_created_where_the_server_has_it() -> None:
    """CREATE EXTENSION comes first."""
    assert summaries(replace(EMPTY, timescaledb_version=None))[0] == "create extension timescaledb"


def test_a_server_without_timescaledb_is_refused() -> None:
    """There is nothing the operator could do about it."""
    found = refusal(replace(EMPTY, timescaledb_version=None, timescaledb_available=False))
    assert found.reason is Reason.TIMESCALEDB_MISSING


def test_a_new_measurement_adds_its_column() -> None:
    """And nothing else."""
    wider = replace(DESIRED, measurements=("temperature", "cpu", "humidity"))
    assert summaries(provisioned(), wider) == ["add column humidity to plant.sensor_data"]


def test_a_measurement_taken_away_keeps_its_column() -> None:
    """The operator never drops data."""
    assert summaries(provisioned(), replace(DESIRED, measurements=("cpu",))) == []


def test_a_dropped_index_comes_back() -> None:
    """Drift is repaired by the same plan."""
    assert summaries(provisioned(indexes={})) == [
        "create index on plant.sensor_data (sensor_id, time DESC)",
        "create index on plant.dead_letters (received_at)",
    ]


def test_a_changed_chunk_interval_is_set() -> None:
    """The words say that it counts for new chunks."""
    (said,) = summaries(provisioned(chunk_interval=timedelta(days=7)))
    assert "from 7 days, 0:00:00 to 1 day, 0:00:00 (new chunks only)" in said


def test_the_schema_of_a_living_pipeline_is_refused() -> None:
    """The message says whose it is and how to hand it over."""
    other = Owner(uid="uid-2", pipeline="lab/other", cluster="cluster-1")
    found = refusal(provisioned(comment=other.to_comment()))
    assert (found.reason, found.blocking) == (Reason.SCHEMA_OWNED_BY_ANOTHER, True)
    assert "lab/other" in found.summary
    assert 'COMMENT ON SCHEMA "plant" IS NULL' in found.summary


def test_the_schema_of_a_pipeline_that_was_deleted_and_created_again_is_taken_over() -> None:
    """Retain keeps the data for the next resource of the same name."""
    before = replace(OWNER, uid="uid-0")
    assert summaries(provisioned(comment=before.to_comment())) == ["mark schema plant as owned by default/plant"]


def test_the_same_name_in_another_cluster_is_another_pipeline() -> None:
    """Two clusters on one database never share a schema by accident."""
    elsewhere = replace(OWNER, uid="uid-0", cluster="cluster-2")
    assert refusal(provisioned(comment=elsewhere.to_comment())).reason is Reason.SCHEMA_OWNED_BY_ANOTHER


def test_a_namesake_that_still_lives_keeps_its_schema() -> None:
    """A resource being deleted is not gone yet."""
    before = replace(OWNER, uid="uid-0")
    desired = replace(DESIRED, live_uids=frozenset({"uid-0", "uid-1"}))
    assert refusal(provisioned(comment=before.to_comment()), desired).reason is Reason.SCHEMA_OWNED_BY_ANOTHER


@pytest.mark.parametrize("comment", [None, "", "written by hand", "[]", '{"sensorlog.dev/owner": 3}'])
def test_a_schema_without_an_owner_is_adopted(comment: str | None) -> None:
    """A hand-made schema of the right shape is marked, not touched."""
    assert summaries(provisioned(comment=comment)) == ["mark schema plant as owned by default/plant"]


def test_a_column_of_another_type_is_refused() -> None:
    """Types are never changed."""
    tables = {**provisioned().tables, "sensor_data": {"time": "timestamp with time zone", "cpu": "text"}}
    found = refusal(provisioned(tables=tables))
    assert found.reason is Reason.SCHEMA_CONFLICT
    assert "plant.sensor_data.cpu has type text" in found.summary


def test_a_table_without_its_primary_key_is_refused() -> None:
    """Exactly-once rests on the key of ingest_offsets."""
    keys = {**provisioned().primary_keys}
    del keys["ingest_offsets"]
    assert "ingest_offsets lacks the primary key" in refusal(provisioned(primary_keys=keys)).summary


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (psycopg.OperationalError("connection refused"), UnavailableError, Reason.DATABASE_UNAVAILABLE),
        (
            psycopg.OperationalError('FATAL:  password authentication failed for user "a"'),
            NeedsChangeError,
            Reason.DATABASE_AUTHENTICATION_FAILED,
        ),
        (
            psycopg.OperationalError('FATAL:  database "x" does not exist'),
            NeedsChangeError,
            Reason.DATABASE_REJECTED,
        ),
        (psycopg.errors.InsufficientPrivilege("no"), NeedsChangeError, Reason.DATABASE_PERMISSION_DENIED),
        (psycopg.errors.LockNotAvailable("timeout"), UnavailableError, Reason.DATABASE_UNAVAILABLE),
        (psycopg.ProgrammingError('missing "="'), NeedsChangeError, Reason.CONNECTION_URI_INVALID),
        (psycopg.errors.DuplicateTable("there"), UnavailableError, Reason.DATABASE_REJECTED),
    ],
)
def test_database_errors_become_a_reason(error: psycopg.Error, kind: type[PipelineError], reason: Reason) -> None:
    """Each class of failure has a condition of its own."""
    with pytest.raises(kind) as raised, connections.mapped_errors():
        raise error
    assert raised.value.reason is reason


def test_no_error_of_psycopg_escapes_unmapped() -> None:
    """Every error class of the driver, those of each SQLSTATE included, becomes a PipelineError."""
    classes = {c for c in vars(psycopg.errors).values() if isinstance(c, type) and issubclass(c, psycopg.Error)}
    assert len(classes) > 200
    for error in classes:
        with pytest.raises((NeedsChangeError, UnavailableError)), connections.mapped_errors():
            raise error("details")


def test_an_unreadable_uri_is_not_repeated() -> None:
    """It holds the password."""
    with pytest.raises(NeedsChangeError) as raised, connections.connect("postgresql//user:hunter2@host"):
        pass
    assert raised.value.reason is Reason.CONNECTION_URI_INVALID
    assert "hunter2" not in raised.value.message
