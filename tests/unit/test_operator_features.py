"""The plan of retention, compression and rollups, by edition and version. The statements are compared as text."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sensorlog import rollups as shape
from sensorlog_operator import features
from sensorlog_operator.features import DesiredFeatures, ObservedFeatures
from sensorlog_operator.policies import Policy
from sensorlog_operator.rollups import ObservedRollup, Refresh, refresh_of
from sensorlog_operator.schema import Execute

HALF_HOUR, HOUR, DAY = timedelta(minutes=30), timedelta(hours=1), timedelta(days=1)
MEASUREMENTS = ("temperature", "cpu")
NOTHING = DesiredFeatures("plant", MEASUREMENTS)
EVERYTHING = DesiredFeatures("plant", MEASUREMENTS, 90 * DAY, 7 * DAY, (HALF_HOUR, DAY))

APACHE = ObservedFeatures("apache", (2, 19, 3))
LICENSED = ObservedFeatures("timescale", (2, 19, 3))
COLUMNS = shape.columns(MEASUREMENTS)


def rollup(interval: timedelta, **changes: Any) -> ObservedRollup:
    """Return a rollup as it should be, but for `changes`."""
    return replace(ObservedRollup(interval, COLUMNS, refresh_of(interval), retention=Policy(98 * DAY)), **changes)


IN_FORCE = replace(
    LICENSED,
    retention=Policy(90 * DAY),
    compression=Policy(7 * DAY),
    compressed_by=("sensor_id", "time DESC"),
    rollups=(rollup(HALF_HOUR), rollup(DAY)),
)


def statements(desired: DesiredFeatures, observed: ObservedFeatures) -> list[str]:
    """Return the plan as it is sent."""
    plan = features.plan(desired, observed)
    return [" ".join(action.statement.as_string().split()) for action in plan if isinstance(action, Execute)]


def summaries(desired: DesiredFeatures, observed: ObservedFeatures) -> list[str]:
    """Return the plan in words."""
    return [action.summary for action in features.plan(desired, observed)]


@pytest.mark.parametrize(
    "observed", [APACHE, LICENSED, replace(APACHE, version=())], ids=["apache", "timescale", "new"]
)
def test_nothing_is_planned_where_nothing_is_asked_for(observed: ObservedFeatures) -> None:
    """Whatever the edition."""
    assert features.plan(NOTHING, observed) == []


def test_nothing_is_planned_where_everything_is_in_force() -> None:
    """A reconcile without a change does nothing."""
    assert features.plan(EVERYTHING, IN_FORCE) == []


def test_nothing_is_planned_before_the_extension_is_there() -> None:
    """Which edition it will be is not known yet."""
    assert features.plan(EVERYTHING, ObservedFeatures(None, ())) == []


def test_everything_is_made_with_the_names_of_today() -> None:
    """Rollups first: a retention must not run before they are filled."""
    rollup_30m, refresh_30m, keep_30m, rollup_1d, refresh_1d, _, enable, compress, drop = statements(
        EVERYTHING, LICENSED
    )
    assert rollup_30m.startswith(
        'CREATE MATERIALIZED VIEW "plant"."rollup_30m" WITH (timescaledb.continuous, timescaledb.materialized_only = '
        'true) AS SELECT time_bucket(\'0:30:00\'::interval, "time") AS "bucket", "sensor_id", count(*) AS'
    )
    assert rollup_30m.endswith('FROM "plant"."sensor_data" GROUP BY 1, 2 WITH NO DATA')
    assert rollup_1d.startswith('CREATE MATERIALIZED VIEW "plant"."rollup_1d"')
    assert refresh_30m == (
        'SELECT add_continuous_aggregate_policy(\'"plant"."rollup_30m"\', start_offset => NULL,'
        " end_offset => '0:30:00'::interval, schedule_interval => '0:30:00'::interval, if_not_exists => true)"
    )
    assert "end_offset => '1 day 0:00:00'::interval, schedule_interval => '1:00:00'::interval" in refresh_1d
    assert keep_30m == (
        "SELECT add_retention_policy('\"plant\".\"rollup_30m\"', drop_after => '98 days 0:00:00'::interval,"
        " if_not_exists => true)"
    )
    assert enable == (
        'ALTER TABLE "plant"."sensor_data" SET (timescaledb.enable_columnstore = true,'
        " timescaledb.segmentby = 'sensor_id', timescaledb.orderby = 'time DESC')"
    )
    assert compress == (
        "CALL add_columnstore_policy('\"plant\".\"sensor_data\"', after => '7 days 0:00:00'::interval,"
        " if_not_exists => true)"
    )
    assert drop == (
        "SELECT add_retention_policy('\"plant\".\"sensor_data\"', drop_after => '90 days 0:00:00'::interval,"
        " if_not_exists => true)"
    )


def test_compression_has_its_old_names_before_they_changed() -> None:
    """TimescaleDB 2.18 called it columnstore."""
    enable, compress = statements(replace(NOTHING, compress_after=7 * DAY), replace(LICENSED, version=(2, 17, 2)))
    assert enable == (
        'ALTER TABLE "plant"."sensor_data" SET (timescaledb.compress,'
        " timescaledb.compress_segmentby = 'sensor_id', timescaledb.compress_orderby = 'time DESC')"
    )
    assert compress == (
        "SELECT add_compression_policy('\"plant\".\"sensor_data\"', compress_after => '7 days 0:00:00'::interval,"
        " if_not_exists => true)"
    )


def test_a_rollup_has_the_columns_that_queries_read() -> None:
    """In the shape that the query service knows, values of equal moments in its order."""
    made = statements(replace(NOTHING, rollups=(HOUR,)), LICENSED)[0]
    assert all(f'AS "{column}"' in made for column in COLUMNS - {shape.BUCKET, shape.SENSOR})
    first = 'first("cpu", ROW("time", "cpu")) FILTER (WHERE "cpu" IS NOT NULL) AS "cpu_first"'
    assert first in made


def test_what_is_no_longer_asked_for_is_removed() -> None:
    """The policies go; what they compressed stays compressed."""
    assert statements(NOTHING, IN_FORCE) == [
        'DROP MATERIALIZED VIEW IF EXISTS "plant"."rollup_30m"',
        'DROP MATERIALIZED VIEW IF EXISTS "plant"."rollup_1d"',
        'CALL remove_columnstore_policy(\'"plant"."sensor_data"\', if_exists => true)',
        'SELECT remove_retention_policy(\'"plant"."sensor_data"\', if_exists => true)',
    ]
    older = replace(IN_FORCE, version=(2, 17, 2))
    assert statements(NOTHING, older)[2].startswith("SELECT remove_compression_policy(")


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ({"retention": None}, ["add a policy that drops chunks of plant.sensor_data older than 90d"]),
        (
            {"retention": Policy(30 * DAY)},
            ["set the policy that drops chunks of plant.sensor_data to those older than 90d, not 30d"],
        ),
        (
            {"retention": Policy(None)},
            ["set the policy that drops chunks of plant.sensor_data to those older than 90d, not another rule"],
        ),
        (
            {"compression": Policy(7 * DAY, scheduled=False)},
            ["set the policy that compresses chunks of plant.sensor_data to those older than 7d, paused"],
        ),
        (
            {"compressed_by": ("", "time DESC")},
            ["let chunks of plant.sensor_data be compressed by sensor_id, in order of time DESC"],
        ),
        (
            {"rollups": (rollup(DAY),)},
            [
                "create rollup plant.rollup_30m of temperature, cpu, to be filled in the background",
                "refresh rollup plant.rollup_30m every 30m",
                "add a policy that drops chunks of plant.rollup_30m older than 98d",
            ],
        ),
        (
            {"rollups": (rollup(HALF_HOUR, retention=Policy(90 * DAY)), rollup(DAY))},
            ["set the policy that drops chunks of plant.rollup_30m to those older than 98d, not 90d"],
        ),
        (
            {"rollups": (rollup(HALF_HOUR), rollup(DAY), rollup(HOUR))},
            ["drop rollup plant.rollup_1h"],
        ),
        ({"rollups": (rollup(HALF_HOUR), rollup(DAY, refresh=None))}, ["refresh rollup plant.rollup_1d every 1h"]),
        (
            {"rollups": (rollup(HALF_HOUR, materialized_only=False), rollup(DAY))},
            ["let rollup plant.rollup_30m hold whole buckets only"],
        ),
    ],
    ids=lambda value: "" if isinstance(value, list) else next(iter(value)),
)
def test_what_was_changed_by_hand_is_repaired(drift: dict[str, Any], said: list[str]) -> None:
    """And nothing else is touched."""
    assert summaries(EVERYTHING, replace(IN_FORCE, **drift)) == said


@pytest.mark.parametrize(
    "refresh",
    [
        Refresh(HALF_HOUR, HALF_HOUR, from_the_beginning=False),
        Refresh(HALF_HOUR, HALF_HOUR, scheduled=False),
        Refresh(HALF_HOUR, DAY),
        Refresh(None, HALF_HOUR),
    ],
)
def test_another_refresh_is_set_back(refresh: Refresh) -> None:
    """A policy cannot be altered: it is removed and added in one statement."""
    (statement,) = statements(
        replace(NOTHING, rollups=(HALF_HOUR,)),
        replace(LICENSED, rollups=(rollup(HALF_HOUR, refresh=refresh, retention=None),)),
    )
    remove, add = statement.split("; ")
    assert remove == 'SELECT remove_continuous_aggregate_policy(\'"plant"."rollup_30m"\', if_exists => true)'
    assert add.startswith("SELECT add_continuous_aggregate_policy(")


def test_a_rollup_goes_long_after_its_readings() -> None:
    """Readings that are still there, because their chunk is not old enough, must not be missing in a rollup."""
    wide = replace(EVERYTHING, chunk_interval=30 * DAY)
    assert [wide.rollup_retention, NOTHING.rollup_retention] == [127 * DAY, None]
    kept = replace(NOTHING, rollups=(HALF_HOUR,))
    assert summaries(kept, replace(LICENSED, rollups=(rollup(HALF_HOUR),))) == [
        "remove the policy that drops chunks of plant.rollup_30m"
    ]


def test_a_rollup_that_lacks_a_measurement_is_made_again() -> None:
    """It holds nothing that the readings do not."""
    wider = replace(NOTHING, measurements=(*MEASUREMENTS, "humidity"), rollups=(HALF_HOUR,))
    assert summaries(wider, replace(LICENSED, rollups=(rollup(HALF_HOUR, retention=None),))) == [
        "drop rollup plant.rollup_30m, which lacks humidity, to make it again",
        "create rollup plant.rollup_30m of temperature, cpu, humidity, to be filled in the background",
        "refresh rollup plant.rollup_30m every 30m",
    ]


def test_a_rollup_with_a_measurement_too_many_stays() -> None:
    """As the column of the readings does."""
    narrower = replace(NOTHING, measurements=("cpu",), rollups=(HALF_HOUR,))
    assert features.plan(narrower, replace(LICENSED, rollups=(rollup(HALF_HOUR, retention=None),))) == []


def test_the_apache_edition_drops_old_chunks_in_words() -> None:
    """Only those that were seen to be old."""
    expired = tuple(datetime(2026, 8, day, tzinfo=UTC) for day in (24, 25, 26))
    (action,) = features.plan(replace(NOTHING, retention=90 * DAY), replace(APACHE, expired=expired))
    assert isinstance(action, Execute)
    assert action.summary == ("drop 3 chunks of plant.sensor_data older than 90d: readings before 2026-08-26T00:00Z")
    assert (action.risk, action.dangerous, action.upkeep) == ("These readings are gone for good.", False, True)
    assert action.statement.as_string() == (
        "SELECT drop_chunks('\"plant\".\"sensor_data\"', older_than => '2026-08-26T00:00:00+00:00'::timestamptz)"
    )


def test_nothing_is_dropped_without_a_retention() -> None:
    """Even if somebody found something old."""
    assert features.plan(NOTHING, replace(APACHE, expired=(datetime(1999, 1, 1, tzinfo=UTC),))) == []


def test_the_licensed_edition_drops_by_its_own_policy() -> None:
    """Not twice."""
    expired = replace(LICENSED, expired=(datetime(1999, 1, 1, tzinfo=UTC),), retention=Policy(90 * DAY))
    assert features.plan(replace(NOTHING, retention=90 * DAY), expired) == []


def test_the_apache_edition_is_told_what_it_lacks() -> None:
    """With the consequence and the remedy; nothing is planned for it."""
    assert features.plan(EVERYTHING, APACHE) == []
    compression, rollups = features.lacking(EVERYTHING, APACHE)
    assert compression.startswith("spec.timescale.compressAfter has no effect: the database runs TimescaleDB's apache")
    assert "from the readings, with the same numbers" in rollups
    assert "timescaledb.license = 'timescale'" in rollups


def test_a_retention_lacks_nothing_on_the_apache_edition() -> None:
    """The operator drops there."""
    assert features.lacking(replace(NOTHING, retention=90 * DAY), APACHE) == []


def test_a_licensed_version_that_is_too_old_is_told_so() -> None:
    """Its catalogs are others."""
    messages = features.lacking(EVERYTHING, replace(LICENSED, version=(2, 13, 1)))
    assert len(messages) == 2
    assert all("older than 2.14" in message for message in messages)


@pytest.mark.parametrize("observed", [LICENSED, ObservedFeatures(None, ())], ids=["timescale", "new"])
def test_nothing_is_said_to_lack_without_knowing(observed: ObservedFeatures) -> None:
    """Before the extension is there, its edition is not known."""
    assert features.lacking(EVERYTHING, observed) == []


@pytest.mark.parametrize(
    ("desired", "said"),
    [
        (NOTHING, "No retention, compression or rollups are asked for."),
        (EVERYTHING, "In force: retention 90d, compression after 7d, rollups of 30m, 1d."),
    ],
)
def test_what_is_in_force_is_said(desired: DesiredFeatures, said: str) -> None:
    """In the condition's message."""
    assert features.summary(desired) == said
