"""Buckets compared with a second computation by zoneinfo and numpy, above all in nights when clocks change."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import numpy as np
import pytest

from sensorlog.rpc import logger_pb2 as pb
from support.pipelines import Pipeline
from support.query import (
    HOUR,
    QueryService,
    Reading,
    bucketed,
    query_service,
    random_readings,
    refused,
    start_of,
    store,
)

pytestmark = pytest.mark.integration

Key = tuple[int, int | None]
NAMES = ("temperature", "cpu")
SENSORS = [-3, 1, 2, 7]
ALL = [pb.AGGREGATE_MINIMUM, pb.AGGREGATE_MAXIMUM, pb.AGGREGATE_FIRST, pb.AGGREGATE_LAST]
DAY = 24 * HOUR
CHANGES = {
    "Europe/Berlin": ("2022-03-27T01:00Z", "2022-10-30T01:00Z"),
    "America/New_York": ("2022-03-13T07:00Z", "2022-11-06T06:00Z"),
    "America/Havana": ("2022-03-13T05:00Z", "2022-11-06T05:00Z"),  # at midnight
    "Asia/Kathmandu": ("2022-07-01T00:00Z",),  # 5:45 from UTC, no change
}


def _ts(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


def _around(changes: Sequence[str], seed: int) -> list[Reading]:
    """Return readings of a few days around each change, dense in its hours, with NULLs and equal keys."""
    random = Random(seed)  # noqa: S311 -- test data
    readings: list[Reading] = []
    for change in changes:
        for spread in (3 * HOUR, 40 * HOUR):
            moments = [_ts(change) + random.randrange(-spread, spread) for _ in range(100)]
            readings += [
                (random.choice(moments), random.choice(SENSORS), (_value(random), _value(random))) for _ in range(200)
            ]
    return readings


def _value(random: Random) -> float | None:
    return None if random.random() < 0.2 else random.choice([random.uniform(-50, 100), 0.0])


READINGS = [reading for i, changes in enumerate(CHANGES.values()) for reading in _around(changes, i)]


def _every_start(start: int, end: int, width: int, zone: str) -> set[int]:
    return {start_of(ts, width, zone) for ts in (*range(start, end, min(width, 900)), end - 1)}


def _values(readings: Sequence[Reading]) -> dict[str, dict[str, float]]:
    """Return the reply's maps by their names."""
    maps: dict[str, dict[str, float]] = {name: {} for name in ("averages", "minimums", "maximums", "firsts", "lasts")}
    for i, name in enumerate(NAMES):
        present = sorted((ts, sensor, values[i]) for ts, sensor, values in readings if values[i] is not None)
        if present:
            column = np.array([value for _, _, value in present])
            maps["averages"][name] = float(np.mean(column))
            maps["minimums"][name], maps["maximums"][name] = float(column.min()), float(column.max())
            maps["firsts"][name], maps["lasts"][name] = float(column[0]), float(column[-1])
    return maps


def _check(results: Sequence[Any], expected: dict[Key, list[Reading]], last: str = "lasts") -> None:
    keys = [(r.period, r.sensor_id if r.HasField("sensor_id") else None) for r in results]
    assert keys == sorted(expected, key=lambda key: (key[0], key[1] or 0))
    for key, result in zip(keys, results, strict=True):
        maps = _values(expected[key])
        assert result.count == len(expected[key])
        assert dict(result.averages) == pytest.approx(maps["averages"])
        assert dict(result.minimums) == maps["minimums"]
        assert dict(result.maximums) == maps["maximums"]
        assert dict(result.firsts) == maps["firsts"]
        assert dict(getattr(result, last)) == maps["lasts"]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service over READINGS."""
    store(pipeline, READINGS)
    with query_service(start_service, pipeline) as service:
        yield service


@pytest.mark.parametrize("zone", ["UTC", *CHANGES])
def test_aggregates_are_those_of_the_readings(query: QueryService, zone: str) -> None:
    """Of any width, one series or one per sensor; also where a day has 23 or 25 hours, and an hour comes twice."""
    for width in (600, 1_800, HOUR, 2 * HOUR, 6 * HOUR, DAY, 7 * DAY):
        for per_sensor in (False, True):
            expected = bucketed(READINGS, width, per_sensor=per_sensor, zone=zone)
            options: dict[str, Any] = {"bucket_seconds": width, "per_sensor": per_sensor, "aggregates": ALL}
            plain = query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(time_zone=zone, **options))
            latest = query.stub.GetSensorAvgAndLatestData(pb.GetSensorAvgAndLatestDataReq(time_zone=zone, **options))
            _check(plain.results, expected)
            _check(latest.results, expected, last="latest")


@pytest.mark.parametrize("zone", ["UTC", *CHANGES])
def test_gaps_are_filled_over_the_whole_range(query: QueryService, zone: str) -> None:
    """With buckets that begin where those with readings would; per sensor for each one that was named."""
    for change in CHANGES.get(zone, CHANGES["Europe/Berlin"]):
        start, end = _ts(change) - 4 * DAY - 1_234, _ts(change) + 3 * DAY + 17
        for width in (600, 1_800, HOUR, 2 * HOUR, 6 * HOUR, DAY, 7 * DAY):
            for sensors in ([], [7, -3, 404]):
                chosen = [r for r in READINGS if start <= r[0] < end and (not sensors or r[1] in sensors)]
                found = bucketed(chosen, width, per_sensor=bool(sensors), zone=zone)
                starts = _every_start(start, end, width, zone)
                series: list[int | None] = [*sensors] or [None]
                expected = {(s, sensor): found.get((s, sensor), []) for s in starts for sensor in series}
                request = pb.GetSensorAvgDataReq(
                    start_ts=start, end_ts=end, sensor_ids=sensors, per_sensor=bool(sensors),
                    bucket_seconds=width, time_zone=zone, aggregates=ALL, fill_gaps=True,
                )  # fmt: skip
                assert found.keys() <= expected.keys()
                _check(query.stub.GetSensorAvgData(request).results, expected)


def test_random_readings_of_any_width_are_counted_from_a_monday(query: QueryService, pipeline: Pipeline) -> None:
    """In UTC every width is accepted, also those that divide nothing."""
    pipeline.query("TRUNCATE sensor_data")
    random = Random(3)  # noqa: S311 -- test data
    readings = random_readings(3)
    store(pipeline, readings)
    start, end = min(r[0] for r in readings), max(r[0] for r in readings) + 1
    for width in (random.randrange(1_000, 40_000) for _ in range(10)):
        options: dict[str, Any] = {"bucket_seconds": width, "aggregates": ALL}
        _check(query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(**options)).results, bucketed(readings, width))
        filled = query.stub.GetSensorAvgData(
            pb.GetSensorAvgDataReq(start_ts=start, end_ts=end, fill_gaps=True, **options)
        ).results
        periods = [bucket.period for bucket in filled]
        assert periods == list(range(periods[0], end, width))
        assert periods[0] <= start < periods[0] + width
        assert sum(bucket.count for bucket in filled) == len(readings)


def test_a_day_has_the_hours_that_its_zone_gives_it(query: QueryService) -> None:
    """23 in spring and 25 in autumn, counted in hours and as one day."""
    for day, hours in (("2022-03-27", 23), ("2022-10-30", 25), ("2022-10-31", 24)):
        midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        start, end = int(midnight.timestamp()), int((midnight + timedelta(days=1)).timestamp())
        options: dict[str, Any] = {
            "start_ts": start, "end_ts": end, "fill_gaps": True, "time_zone": "Europe/Berlin",
        }  # fmt: skip
        by_hour = query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(bucket_seconds=HOUR, **options)).results
        by_day = query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(bucket_seconds=DAY, **options)).results
        assert [bucket.period for bucket in by_hour] == [start + i * HOUR for i in range(hours)]
        assert [bucket.period for bucket in by_day] == [start]
        assert sum(bucket.count for bucket in by_hour) == by_day[0].count


def test_only_what_was_asked_for_is_told(query: QueryService) -> None:
    """An original client's request brings averages, and nothing that it does not know."""
    for bucket in query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq()).results:
        assert not any((bucket.minimums, bucket.maximums, bucket.firsts, bucket.lasts))
    request = pb.GetSensorAvgDataReq(bucket_seconds=DAY, aggregates=[pb.AGGREGATE_MAXIMUM, pb.AGGREGATE_MAXIMUM])
    buckets = query.stub.GetSensorAvgData(request).results
    assert all(bucket.maximums for bucket in buckets)
    assert not any(bucket.minimums or bucket.firsts or bucket.lasts for bucket in buckets)


BOUNDED = {"start_ts": 0, "end_ts": 10 * DAY, "fill_gaps": True}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.GetSensorAvgDataReq(end_ts=1, fill_gaps=True), "start_ts: missing; must be set with fill_gaps"),
        (pb.GetSensorAvgDataReq(start_ts=1, fill_gaps=True), "end_ts: missing; must be set with fill_gaps"),
        (pb.GetSensorAvgDataReq(per_sensor=True, **BOUNDED), "sensor_ids: missing"),  # type: ignore[arg-type]
        (pb.GetSensorAvgDataReq(bucket_seconds=1, **BOUNDED), "must be at most 100000"),  # type: ignore[arg-type]
        (pb.GetSensorAvgDataReq(aggregates=[pb.AGGREGATE_UNSPECIFIED]), "aggregates: 0 is not accepted"),
        (pb.GetSensorAvgDataReq(time_zone="Europe/Atlantis"), "time_zone: 'Europe/Atlantis' is not known"),
        (pb.GetSensorAvgDataReq(time_zone="UTC+3"), "time_zone: 'UTC+3' is not known"),
        (pb.GetSensorAvgDataReq(time_zone="UTC'; DROP SCHEMA public; --"), "time_zone: "),
        (pb.GetSensorAvgDataReq(time_zone="Europe/Berlin", bucket_seconds=2_400), "bucket_seconds: 2400 is not"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_told_is_refused(query: QueryService, request_: pb.GetSensorAvgDataReq, message: str) -> None:
    """By the name of the field, with what is accepted."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, message):
        query.stub.GetSensorAvgData(request_)
