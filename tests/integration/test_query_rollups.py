"""Buckets answered from rollups have the numbers of the readings, whatever the rollups do not know yet.

The database of the tests has no license for continuous aggregates: `support.rollups` keeps their catalogs instead.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from sensorlog.rpc import logger_pb2 as pb
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, Reading, bucketed, query_service, random_readings
from support.rollups import SimulatedRollup, write
from support.waiting import wait_until

pytestmark = pytest.mark.integration

ALL = [pb.AGGREGATE_MINIMUM, pb.AGGREGATE_MAXIMUM, pb.AGGREGATE_FIRST, pb.AGGREGATE_LAST]
MINUTE, HOUR, DAY = 60, 3_600, 86_400
NAMES = ("temperature", "cpu")
FORGOTTEN_SECONDS = 15
"""By when a service has noticed which rollups there are."""
UNIT_ROUNDOFF = 2.0**-53


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service over the pipeline."""
    with query_service(start_service, pipeline) as service:
        yield service


def rollup(pipeline: Pipeline, seconds: int) -> SimulatedRollup:
    """Return a rollup that was just made."""
    made = SimulatedRollup(pipeline, timedelta(seconds=seconds))
    made.create()
    return made


def answers(query: QueryService, made: SimulatedRollup) -> float:
    """Return how often the service answered from a rollup."""
    return query.process.metric("sensorlog_query_rollup_answers_total", {"rollup": made.name})


def ask(query: QueryService, seconds: int, **options: Any) -> list[Any]:
    """Return buckets with everything that can be told of them."""
    request = pb.GetSensorAvgDataReq(bucket_seconds=seconds, aggregates=ALL, **options)
    return list(query.stub.GetSensorAvgData(request).results)


def check(results: Sequence[Any], expected: dict[Any, list[Reading]]) -> None:
    """Compare with the readings: averages within the rounding of sums in any order, all else exactly."""
    assert [(r.period, r.sensor_id if r.HasField("sensor_id") else None) for r in results] == list(expected)
    for result, readings in zip(results, expected.values(), strict=True):
        assert result.count == len(readings)
        for i, name in enumerate(NAMES):
            present = sorted((ts, sensor, values[i]) for ts, sensor, values in readings if values[i] is not None)
            values = [float(value) for _, _, value in present if value is not None]
            maps = (result.minimums, result.maximums, result.firsts, result.lasts)
            if not values:
                assert not any(name in of_measurement for of_measurement in (*maps, result.averages))
                continue
            assert [of_measurement[name] for of_measurement in maps] == [
                min(values),
                max(values),
                values[0],
                values[-1],
            ]
            bound = 2 * len(values) * UNIT_ROUNDOFF * math.fsum(map(abs, values)) / len(values)
            assert abs(result.averages[name] - math.fsum(values) / len(values)) <= bound


def test_a_rollup_answers_for_what_it_holds(query: QueryService, pipeline: Pipeline) -> None:
    """Not the readings: these are gone here, without the note that TimescaleDB would make of it."""
    readings = random_readings(1)
    write(pipeline, readings)
    made = rollup(pipeline, 30 * MINUTE)
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    pipeline.query("DELETE FROM sensor_data")
    wait_until(lambda: ask(query, HOUR), deadline=FORGOTTEN_SECONDS, what="the service to know the rollup")
    for seconds in (30 * MINUTE, HOUR, 90 * MINUTE, DAY, 7 * DAY):
        for per_sensor in (False, True):
            check(ask(query, seconds, per_sensor=per_sensor), bucketed(readings, seconds, per_sensor=per_sensor))
    assert answers(query, made) >= 10
    # What does not fit into the rollup's buckets is left to the readings.
    for options in ({"seconds": 20 * MINUTE}, {"seconds": DAY, "time_zone": "Asia/Kathmandu"}):
        assert ask(query, **options) == []


def test_numbers_are_those_of_the_readings_whatever_is_refreshed(query: QueryService, pipeline: Pipeline) -> None:
    """Late readings into every part of the past, refreshes of any window, ranges and sensors at random."""
    random = Random(7)  # noqa: S311 -- test data
    readings: list[Reading] = random_readings(0)
    write(pipeline, readings)
    made = [rollup(pipeline, 30 * MINUTE), rollup(pipeline, HOUR)]
    made[0].refresh(SEED_TS - DAY, SEED_TS + DAY)
    wait_until(
        lambda: ask(query, 30 * MINUTE) and answers(query, made[0]), deadline=FORGOTTEN_SECONDS, what="the rollups"
    )
    before = [answers(query, each) for each in made]
    for step in range(60):
        if step % 2:
            late = random_readings(1_000 + step, count=random.choice([4, 40]))
            write(pipeline, late)
            readings += late
        start = SEED_TS + random.randrange(-DAY, 4 * DAY)
        if step % 3:
            random.choice(made).refresh(start, start + random.randrange(2 * HOUR, 5 * DAY))
        low = SEED_TS + random.randrange(-DAY, 3 * DAY)
        high = low + random.randrange(1, 3 * DAY)
        sensors = random.choice([[], [1], [7, -3]])
        per_sensor = random.random() < 0.5
        seconds = random.choice([30 * MINUTE, HOUR, 2 * HOUR, DAY])
        chosen = [r for r in readings if low <= r[0] < high and (not sensors or r[1] in sensors)]
        found = ask(query, seconds, start_ts=low, end_ts=high, sensor_ids=sensors, per_sensor=per_sensor)
        check(found, bucketed(chosen, seconds, per_sensor=per_sensor))
        check(ask(query, seconds, per_sensor=per_sensor), bucketed(readings, seconds, per_sensor=per_sensor))
    assert all(answers(query, each) > known for each, known in zip(made, before, strict=True))


@pytest.mark.parametrize(
    ("zone", "change", "answered"),
    [
        ("Europe/Berlin", "2022-03-27T01:00Z", 10),
        ("Europe/Berlin", "2022-10-30T01:00Z", 10),
        ("America/Havana", "2022-11-06T05:00Z", 10),  # at midnight
        ("Australia/Lord_Howe", "2022-04-02T15:00Z", 10),  # by half an hour
        ("Asia/Kathmandu", "2022-07-01T00:00Z", 0),  # 5:45 from UTC
    ],
)
def test_days_of_a_time_zone_come_from_rollups_that_fit(
    query: QueryService, pipeline: Pipeline, zone: str, change: str, answered: int
) -> None:
    """Also those with a change of clocks; a rollup that reaches over a zone's midnight is not taken."""
    shift = int(datetime.fromisoformat(change).timestamp()) - 2 * DAY - SEED_TS
    readings = [(ts + shift, sensor, values) for ts, sensor, values in random_readings(6)]
    write(pipeline, readings)
    made, too_wide = rollup(pipeline, 30 * MINUTE), rollup(pipeline, DAY)
    for each in (made, too_wide):
        each.refresh(SEED_TS + shift + HOUR, SEED_TS + shift + 9 * DAY)
    wait_until(lambda: ask(query, DAY) and answers(query, too_wide), deadline=FORGOTTEN_SECONDS, what="the rollups")
    for seconds in (30 * MINUTE, HOUR, 2 * HOUR, DAY, 7 * DAY):
        for per_sensor in (False, True):
            found = ask(query, seconds, per_sensor=per_sensor, time_zone=zone)
            check(found, bucketed(readings, seconds, per_sensor=per_sensor, zone=zone))
    assert answers(query, made) == answered


def test_late_readings_count_at_once(query: QueryService, pipeline: Pipeline) -> None:
    """Not only after the next refresh; and the next refresh takes them in."""
    readings = random_readings(2)
    write(pipeline, readings)
    made = rollup(pipeline, HOUR)
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    wait_until(lambda: ask(query, DAY) and answers(query, made), deadline=FORGOTTEN_SECONDS, what="the rollup")
    late: list[Reading] = [(SEED_TS + HOUR, 7, (99.0, None))]
    write(pipeline, late)
    check(ask(query, DAY), bucketed(readings + late, DAY))
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    pipeline.query("DELETE FROM sensor_data")
    check(ask(query, DAY), bucketed(readings + late, DAY))


def test_a_rollup_made_again_is_not_taken_for_the_one_before(query: QueryService, pipeline: Pipeline) -> None:
    """It is empty at first, and then the readings answer."""
    readings = random_readings(3)
    write(pipeline, readings)
    made = rollup(pipeline, HOUR)
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    wait_until(lambda: ask(query, DAY) and answers(query, made), deadline=FORGOTTEN_SECONDS, what="the rollup")
    for _ in range(2):
        made.drop()
        check(ask(query, DAY), bucketed(readings, DAY))
        made.create()
        check(ask(query, DAY), bucketed(readings, DAY))
        made.refresh(SEED_TS, SEED_TS + DAY)
        check(ask(query, DAY), bucketed(readings, DAY))


def test_a_rollup_that_lacks_a_measurement_is_not_used(start_service: Any, pipeline: Pipeline) -> None:
    """Until the operator has made it again."""
    readings = random_readings(4)
    write(pipeline, readings)
    made = SimulatedRollup(pipeline, timedelta(hours=1), measurements=("temperature",))
    made.create()
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    with query_service(start_service, pipeline) as query:
        check(ask(query, DAY), bucketed(readings, DAY))
        assert answers(query, made) == 0


def test_a_reader_needs_no_other_rights(start_service: Any, pipeline: Pipeline) -> None:
    """Than those that the operator gives: what of a rollup is valid, everybody may know."""
    readings = random_readings(5)
    write(pipeline, readings)
    made = rollup(pipeline, HOUR)
    made.refresh(SEED_TS - DAY, SEED_TS + 9 * DAY)
    role = f"reader_of_{pipeline.schema}"
    for statement in (
        f"CREATE ROLE {role} LOGIN PASSWORD 'not-a-secret'",
        f"GRANT USAGE ON SCHEMA {pipeline.schema} TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {pipeline.schema} TO {role}",
    ):
        pipeline.query(statement)
    pipeline.write_files(make_conninfo(pipeline.database.uri, user=role, password="not-a-secret"))  # noqa: S106
    with query_service(start_service, pipeline) as query:
        check(ask(query, DAY), bucketed(readings, DAY))
        assert answers(query, made) == 1
        # Made again, it cannot be read before the operator has granted that too.
        pipeline.query(f"REVOKE SELECT ON {made.name} FROM {role}")
        check(ask(query, DAY), bucketed(readings, DAY))
        assert answers(query, made) == 1
