"""Each method of the query service gives what plain Python computes from the same readings."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sensorlog.measurements import Measurement
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import PER_SECOND, TimestampUnit
from support.pipelines import SEED_TS, Pipeline
from support.query import (
    QueryService,
    Reading,
    as_reading,
    average,
    bucketed,
    in_order,
    latest,
    query_service,
    random_readings,
    store,
)

pytestmark = pytest.mark.integration

MakePipeline = Callable[..., Pipeline]
READINGS = random_readings(1)
RANGE = {"start_ts": SEED_TS + 86_400, "end_ts": SEED_TS + 2 * 86_400}
SENSORS = [7, -3]


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service over READINGS."""
    store(pipeline, READINGS)
    with query_service(start_service, pipeline) as service:
        yield service


def _chosen(*, filtered: bool) -> list[Reading]:
    return [r for r in READINGS if not filtered or (RANGE["start_ts"] <= r[0] < RANGE["end_ts"] and r[1] in SENSORS)]


def _filters(*, filtered: bool) -> dict[str, Any]:
    return {**RANGE, "sensor_ids": SENSORS} if filtered else {}


def test_list_sensor_pages_through_announced_sensors(query: QueryService, pipeline: Pipeline) -> None:
    """By id; what a sensor did not tell is empty. Those that only report are not among them."""
    pipeline.query(
        "INSERT INTO sensors (id, type, location) SELECT n, 'type', 'floor ' || n FROM generate_series(1, 5) n"
        " ON CONFLICT (id) DO UPDATE SET type = excluded.type, location = excluded.location, updated_at = now()"
    )
    pipeline.query("INSERT INTO sensors (id) VALUES (-1)")
    pipeline.query("INSERT INTO sensors (id, updated_at) VALUES (0, '-infinity')")
    everything = query.stub.ListSensor(pb.ListSensorReq()).results
    assert [sensor.id for sensor in everything] == [-1, 1, 2, 3, 4, 5]
    assert everything[0] == pb.Sensor(id=-1)
    assert everything[3] == pb.Sensor(id=3, type="type", location="floor 3")
    assert [s.id for s in query.stub.ListSensor(pb.ListSensorReq(page=2, page_size=4)).results] == [4, 5]
    assert not query.stub.ListSensor(pb.ListSensorReq(page=3, page_size=4)).results


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("order", [pb.ORDER_UNSPECIFIED, pb.ORDER_ASCENDING, pb.ORDER_DESCENDING])
def test_list_sensor_data_is_in_order(query: QueryService, order: pb.Order.ValueType, *, filtered: bool) -> None:
    """Of (time, sensor_id), oldest first unless asked otherwise; NULL is absent."""
    request = pb.ListSensorDataReq(order=order, page_size=1000, **_filters(filtered=filtered))
    expected = in_order(_chosen(filtered=filtered))
    got = [as_reading(message) for message in query.stub.ListSensorData(request).results]
    assert got == (expected[::-1] if order == pb.ORDER_DESCENDING else expected)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("per_sensor", [False, True])
@pytest.mark.parametrize("seconds", [None, 60, 21_600, 86_400])
def test_averages_are_those_of_the_readings(
    query: QueryService, seconds: int | None, *, per_sensor: bool, filtered: bool
) -> None:
    """Per bucket, half an hour by default; the latest values beside them."""
    expected = bucketed(_chosen(filtered=filtered), seconds or 1_800, per_sensor=per_sensor)
    options = {"bucket_seconds": seconds, "per_sensor": per_sensor, **_filters(filtered=filtered)}
    averages = query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(**options)).results
    both = query.stub.GetSensorAvgAndLatestData(pb.GetSensorAvgAndLatestDataReq(**options)).results
    assert len(averages) == len(both) == len(expected)
    for (key, readings), plain, with_latest in zip(expected.items(), averages, both, strict=True):
        _check_averages(plain, key, readings)
        _check_averages(with_latest, key, readings)
        _check_latest(with_latest, readings)


def _check_averages(result: Any, key: Any, readings: list[Reading]) -> None:
    sensor_id = result.sensor_id if result.HasField("sensor_id") else None
    assert (result.period, sensor_id, result.count) == (*key, len(readings))
    for i, (name, field) in enumerate((("temperature", "avg_temp"), ("cpu", "avg_cpu"))):
        expected = average(readings, i)
        assert (name in result.averages) == result.HasField(field) == (expected is not None)
        if expected is not None:
            assert result.averages[name] == getattr(result, field) == pytest.approx(expected)


def _check_latest(result: pb.SensorAvgAndLatestData, readings: list[Reading]) -> None:
    values = {name: latest(readings, i) for i, name in enumerate(("temperature", "cpu"))}
    assert dict(result.latest) == {name: value for name, value in values.items() if value is not None}
    assert (result.last_temp if result.HasField("last_temp") else None) == values["temperature"]


@pytest.mark.parametrize("sensor_ids", [[], [2], [7, -3, 404, 7]])
def test_latest_readings_are_the_last_of_each_sensor(
    query: QueryService, pipeline: Pipeline, sensor_ids: list[int]
) -> None:
    """Of sensors that announced themselves and of those that did not; one without readings is not there."""
    pipeline.query("INSERT INTO sensors (id) VALUES (2), (404) ON CONFLICT (id) DO UPDATE SET updated_at = now()")
    last = {r[1]: r for r in in_order(READINGS)}
    expected = [last[sensor] for sensor in sorted(last) if sensor in sensor_ids or not sensor_ids]
    reply = query.stub.GetLatestSensorData(pb.GetLatestSensorDataReq(sensor_ids=sensor_ids))
    assert [as_reading(message) for message in reply.results] == expected


def test_an_empty_pipeline_answers_with_nothing(start_service: Any, pipeline: Pipeline) -> None:
    """No method fails for want of data."""
    with query_service(start_service, pipeline) as query:
        assert not query.stub.ListSensor(pb.ListSensorReq()).results
        assert query.stub.ListSensorData(pb.ListSensorDataReq(page=3)) == pb.ListSensorDataReply()
        assert not query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq()).results
        assert not query.stub.GetSensorAvgAndLatestData(pb.GetSensorAvgAndLatestDataReq()).results
        assert not query.stub.GetLatestSensorData(pb.GetLatestSensorDataReq()).results
        assert not list(query.stub.ExportSensorData(pb.ExportSensorDataReq()))


def test_declared_measurements_of_any_name_come_back(start_service: Any, make_pipeline: MakePipeline) -> None:
    """In the map; temperature and cpu where they are declared, and SQL's own words are names like others."""
    names = ("select", "humidity", "cpu")
    pipeline = make_pipeline(create_topics=False, measurements=tuple(Measurement(name=name) for name in names))
    store(pipeline, [(SEED_TS, 1, (1.0, None, 3.0)), (SEED_TS + 60, 1, (2.0, 5.0, None))])
    with query_service(start_service, pipeline) as query:
        readings = query.stub.ListSensorData(pb.ListSensorDataReq()).results
        assert readings[0] == pb.SensorData(ts=SEED_TS, sensor_id=1, cpu=3, measurements={"select": 1})
        assert readings[1] == pb.SensorData(ts=SEED_TS + 60, sensor_id=1, measurements={"select": 2, "humidity": 5})
        [bucket] = query.stub.GetSensorAvgAndLatestData(pb.GetSensorAvgAndLatestDataReq()).results
        assert dict(bucket.averages) == {"select": 1.5, "humidity": 5, "cpu": 3}
        assert dict(bucket.latest) == {"select": 2, "humidity": 5, "cpu": 3}
        assert (bucket.avg_cpu, bucket.HasField("avg_temp"), bucket.HasField("last_temp")) == (3, False, False)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_time_is_in_the_pipelines_unit(start_service: Any, make_pipeline: MakePipeline, unit: TimestampUnit) -> None:
    """In requests and in replies, readings, buckets and exports alike; buckets stay in seconds."""
    pipeline = make_pipeline(create_topics=False, timestamp_unit=unit)
    store(pipeline, [(SEED_TS + i, 1, (1.0, 2.0)) for i in range(3)])
    scale = PER_SECOND[unit]
    bounds: dict[str, Any] = {"start_ts": (SEED_TS + 1) * scale, "end_ts": (SEED_TS + 2) * scale}
    with query_service(start_service, pipeline) as query:
        [reading] = query.stub.ListSensorData(pb.ListSensorDataReq(**bounds)).results
        [bucket] = query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(**bounds)).results
        [columns] = query.stub.ExportSensorData(pb.ExportSensorDataReq(**bounds))
    assert reading.ts == columns.ts[0] == (SEED_TS + 1) * scale
    assert bucket.period == (SEED_TS + 1) // 1_800 * 1_800 * scale
    assert len(columns.ts) == 1


def test_buckets_that_do_not_divide_a_day_begin_at_timescaledbs_origin(query: QueryService) -> None:
    """A week begins on a Monday: 2000-01-03."""
    week = 7 * 86_400
    origin = 946_857_600
    for bucket in query.stub.GetSensorAvgData(pb.GetSensorAvgDataReq(bucket_seconds=week)).results:
        assert (bucket.period - origin) % week == 0
