"""Retention by the operator on a real database, and what it reads of a licensed one's catalogs.

The database of the tests has the apache edition: the catalogs of policies are there, and filled by the tests.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest

from sensorlog.rollups import columns
from sensorlog_operator import connections, features
from sensorlog_operator.errors import Reason
from sensorlog_operator.features import DesiredFeatures, ObservedFeatures
from sensorlog_operator.features_step import FeaturesStep
from sensorlog_operator.gate import Proposal, decide
from sensorlog_operator.plans import Action
from sensorlog_operator.policies import Policy
from sensorlog_operator.report import Report
from sensorlog_operator.rollups import Refresh
from sensorlog_operator.schema import Execute
from sensorlog_operator.steps import Round, SchemaStep
from support.database import Database
from support.pipelines import Pipeline
from support.resources import a_pipeline
from support.rollups import SimulatedRollup

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
MEASUREMENTS = ("temperature", "cpu")


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with a chunk for each of the last ten days, all of whose readings are as old as their index."""
    pipeline = make_pipeline(create_topics=False)
    now = datetime.now(UTC)
    pipeline.insert_readings((now - days * DAY, days, 20.0, None) for days in range(10))
    return pipeline


@contextmanager
def step(pipeline: Pipeline, **timescale: Any) -> Iterator[FeaturesStep]:
    """Yield the step of a reconcile whose resource has these fields in spec.timescale."""
    secret = {"connectionSecretRef": {"name": "timescaledb"}, "schema": pipeline.schema}
    resource = a_pipeline(timescale={**secret, **timescale})
    shared = cast("Round", _Shared(resource, Report()))
    with ExitStack() as stack:
        database = SchemaStep(shared)
        database.connection = stack.enter_context(connections.connect(pipeline.database.uri))
        yield FeaturesStep(shared, database)


class _Shared:
    """What the step needs of a round."""

    def __init__(self, pipeline: Any, report: Report) -> None:
        self.pipeline = pipeline
        self.report = report
        self.known = None


def reconcile(pipeline: Pipeline, **timescale: Any) -> tuple[list[str], Report]:
    """Observe, plan and apply; return what was done, in words, and what is told."""
    with step(pipeline, **timescale) as features_step:
        shared = features_step._round
        features_step.observe()
        actions = features_step.plan(shared.pipeline)
        done = features_step.apply(actions, ())
        features_step.tell(shared.report)
        return [action.summary for action in done], shared.report


def ages(pipeline: Pipeline) -> list[int]:
    """Return the ages in days of the readings that are left."""
    return [age for (age,) in pipeline.query("SELECT sensor_id FROM sensor_data ORDER BY sensor_id")]


def test_chunks_older_than_the_retention_are_dropped(pipeline: Pipeline) -> None:
    """Whole chunks: what is younger stays, also where it shares a chunk with what is older."""
    done, report = reconcile(pipeline, retention="4d")
    assert len(done) == 1
    assert done[0].startswith("drop 5 chunks of ") or done[0].startswith("drop 6 chunks of ")
    left = ages(pipeline)
    assert left == list(range(len(left)))
    assert set(range(4)) <= set(left) <= set(range(6))
    assert report.conditions["FeaturesReady"].message == "In force: retention 4d."
    assert reconcile(pipeline, retention="4d")[0] == []


def test_the_words_name_what_is_dropped(pipeline: Pipeline) -> None:
    """No reading is older, and the oldest that is left is not older either, than the moment that was said."""
    (said,), _ = reconcile(pipeline, retention="3d")
    moment = datetime.fromisoformat(said.rpartition(" ")[2])
    assert pipeline.query("SELECT min(time) >= %s FROM sensor_data", [moment]) == [(True,)]
    assert moment <= datetime.now(UTC) - 3 * DAY


def test_nothing_is_dropped_without_a_retention(pipeline: Pipeline) -> None:
    """However old."""
    pipeline.insert_readings([(datetime(1971, 1, 1, tzinfo=UTC), 99, None, None)])
    done, report = reconcile(pipeline)
    assert done == []
    assert "FeaturesReady" not in report.conditions
    assert len(ages(pipeline)) == 11


def test_many_chunks_are_dropped_some_at_a_time(pipeline: Pipeline) -> None:
    """The oldest first, and the reconcile comes again soon: locks are few, and held briefly."""
    pipeline.insert_readings((datetime(2020, 1, 1, tzinfo=UTC) + i * DAY, 99, None, None) for i in range(40))
    (first,), report = reconcile(pipeline, retention="30d")
    assert f"drop {features.CHUNKS_AT_ONCE} chunks of" in first
    assert first.endswith("before 2020-02-02T00:00Z")
    assert report.retry
    (second,), report = reconcile(pipeline, retention="30d")
    assert "drop 8 chunks of" in second
    assert not report.retry
    assert ages(pipeline) == list(range(10))


def test_a_reader_of_an_old_chunk_is_not_waited_for_long(pipeline: Pipeline) -> None:
    """The drop gives up, is told and tried again; whoever reads meanwhile does not wait behind it for longer."""
    with psycopg.connect(pipeline.database.uri) as reader:
        reader.execute(f"SELECT count(*) FROM {pipeline.schema}.sensor_data".encode())
        done, report = reconcile(pipeline, retention="4d")
        assert done == []
        assert report.conditions["FeaturesReady"].reason is Reason.DATABASE_UNAVAILABLE
        assert (report.retry, report.incomplete) == (True, True)
        assert report.unusable == set()  # nothing else waits for it
    done, report = reconcile(pipeline, retention="4d")
    assert len(done) == 1
    assert report.holds("FeaturesReady")


def test_what_the_edition_lacks_is_a_condition_with_a_remedy(pipeline: Pipeline) -> None:
    """While the retention works."""
    done, report = reconcile(pipeline, retention="4d", compressAfter="2d", rollups=[{"interval": "30m"}])
    assert len(done) == 1
    condition = report.conditions["FeaturesReady"]
    assert (condition.status, condition.reason) == (False, Reason.EDITION_LACKS_FEATURE)
    assert "compressAfter has no effect" in condition.message
    assert "rollups have no effect" in condition.message
    assert not report.incomplete


def test_dropping_is_neither_drift_nor_a_change_once_the_retention_is_applied(pipeline: Pipeline) -> None:
    """So neither driftPolicy Report nor approval Manual keeps it from being done, day after day."""
    with step(pipeline, retention="4d") as features_step:
        features_step.observe()
        shared = features_step._round
        plan = features_step.plan(shared.pipeline)
        for before, is_asked in ((plan, False), ([], True)):
            spec = shared.pipeline.spec.model_copy(update={"approval": "Manual", "drift_policy": "Report"})
            resource = shared.pipeline.model_copy(update={"spec": spec})
            decision = decide(resource, [Proposal("features", plan, before)])
            assert bool(decision.pending) is is_asked
            assert not decision.reported


def job(pipeline: Pipeline, procedure: str, table: str, config: str, *, scheduled: bool = True) -> None:
    """Note a job as adding a policy would; it is not due before long."""
    pipeline.query(
        """
        INSERT INTO _timescaledb_config.bgw_job (application_name, schedule_interval, max_runtime, max_retries,
            retry_period, proc_schema, proc_name, scheduled, initial_start, hypertable_id, config)
        SELECT 'test', interval '1 hour', interval '0', -1, interval '1 hour', '_timescaledb_functions', %s, %s,
               now() + interval '1 year', id, %s
        FROM _timescaledb_catalog.hypertable WHERE (schema_name, table_name) = (%s, %s)
        """,
        [procedure, scheduled, config, pipeline.schema, table],
    )


@pytest.fixture
def licensed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the operator take the database for a licensed one; only what is read, nothing can be done."""
    monkeypatch.setattr(ObservedFeatures, "licensed", True)


def observe(database: Database, desired: DesiredFeatures) -> ObservedFeatures:
    """Return what the catalogs say."""
    with connections.connect(database.uri) as connection:
        return features.observe(connection, desired)


@pytest.mark.usefixtures("licensed")
def test_policies_are_read_from_the_catalogs(pipeline: Pipeline) -> None:
    """With their ages, and whether they are paused."""
    nothing = DesiredFeatures(pipeline.schema, MEASUREMENTS)
    observed = observe(pipeline.database, nothing)
    assert (observed.retention, observed.compression, observed.compressed_by, observed.rollups) == (
        None,
        None,
        None,
        (),
    )
    job(pipeline, "policy_retention", "sensor_data", '{"drop_after": "90 days"}')
    job(pipeline, "policy_compression", "sensor_data", '{"compress_after": "7 days"}', scheduled=False)
    observed = observe(pipeline.database, nothing)
    assert observed.retention == Policy(90 * DAY)
    assert observed.compression == Policy(7 * DAY, scheduled=False)


@pytest.mark.usefixtures("licensed")
def test_settings_of_compression_are_read_from_the_catalogs(pipeline: Pipeline) -> None:
    """As the operator sets them."""
    pipeline.query(
        f"""
        INSERT INTO _timescaledb_catalog.compression_settings
            (relid, segmentby, orderby, orderby_desc, orderby_nullsfirst)
        VALUES ('{pipeline.schema}.sensor_data'::regclass, '{{sensor_id}}', '{{time}}', '{{true}}', '{{true}}')
        """
    )
    try:
        observed = observe(pipeline.database, DesiredFeatures(pipeline.schema, MEASUREMENTS))
        assert observed.compressed_by == (features.SEGMENT_BY, features.ORDER_BY)
    finally:
        pipeline.query(
            "DELETE FROM _timescaledb_catalog.compression_settings WHERE relid = %s::regclass",
            [f"{pipeline.schema}.sensor_data"],
        )


@pytest.mark.usefixtures("licensed")
def test_rollups_are_read_from_the_catalogs(pipeline: Pipeline) -> None:
    """With their columns and how they are refreshed; another continuous aggregate is none of ours."""
    rollup = SimulatedRollup(pipeline, timedelta(minutes=30))
    rollup.create()
    job(
        pipeline, "policy_refresh_continuous_aggregate", f"_kept_{rollup.name}",
        '{"start_offset": null, "end_offset": "00:30:00"}',
    )  # fmt: skip
    job(pipeline, "policy_retention", f"_kept_{rollup.name}", '{"drop_after": "98 days"}')
    (found,) = observe(pipeline.database, DesiredFeatures(pipeline.schema, MEASUREMENTS)).rollups
    assert found.retention == Policy(98 * DAY)
    assert found.interval == rollup.interval
    assert found.columns == columns(MEASUREMENTS)
    assert found.refresh == Refresh(timedelta(minutes=30), timedelta(hours=1))
    pipeline.query(
        "UPDATE _timescaledb_catalog.continuous_agg SET user_view_name = 'daily' WHERE user_view_schema = %s",
        [pipeline.schema],
    )
    assert observe(pipeline.database, DesiredFeatures(pipeline.schema, MEASUREMENTS)).rollups == ()


@pytest.mark.usefixtures("licensed")
def test_the_plan_on_empty_catalogs_is_what_is_asked_for(pipeline: Pipeline) -> None:
    """And the database knows every statement of it: it refuses them for their license only, not for their syntax."""
    desired = DesiredFeatures(pipeline.schema, MEASUREMENTS, 90 * DAY, 7 * DAY, (timedelta(minutes=30),))
    plan: list[Action] = features.plan(desired, observe(pipeline.database, desired))
    assert len(plan) == 6
    for action in plan:
        assert isinstance(action, Execute)
        statement = action.statement.as_string()
        if statement.startswith("SELECT") and "rollup_30m" in statement:
            continue  # the argument is the view that cannot be made
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="license"):
            pipeline.database.execute(statement)
