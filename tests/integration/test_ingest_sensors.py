"""Every sensor that reports is in `sensors`, announced or not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sensorlog_ingest.readings import Readings, no_readings
from sensorlog_ingest.registry import Registry
from sensorlog_ingest.sql import registry_statements
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.waiting import wait_for_value

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 30
NEVER = "SELECT id FROM sensors WHERE updated_at = '-infinity' ORDER BY id"
ANNOUNCED = "SELECT id, type FROM sensors WHERE updated_at > '-infinity' ORDER BY id"


def _report(pipeline: Pipeline, *sensor_ids: int) -> None:
    before = pipeline.count()
    pipeline.produce([[{"ts": SEED_TS, "sensor_id": sensor_id, "cpu": 1} for sensor_id in sensor_ids]])
    wait_for_value(pipeline.count, before + len(sensor_ids), deadline=ARRIVAL_SECONDS, what="the readings")


def _become(pipeline: Pipeline, query: str, expected: list[Any]) -> None:
    wait_for_value(lambda: pipeline.query(query), expected, deadline=ARRIVAL_SECONDS, what="the sensors")


def test_sensors_that_report_are_registered_until_they_announce_themselves(
    pipeline: Pipeline, start_ingest: StartService
) -> None:
    """Their row is older than any announcement, also one that tells nothing but the id."""
    start_ingest(pipeline)
    _report(pipeline, 7, -3, 7, 1)
    assert pipeline.query(NEVER) == [(-3,), (1,), (7,)]
    pipeline.announce([{"id": 7}, {"id": 1, "type": "a"}, {"id": 9}])
    _become(pipeline, ANNOUNCED, [(1, "a"), (7, None), (9, None)])
    _report(pipeline, 1, 9, 10)
    assert pipeline.query(ANNOUNCED) == [(1, "a"), (7, None), (9, None)]
    assert pipeline.query(NEVER) == [(-3,), (10,)]


def test_sensors_of_readings_that_were_there_before_are_registered_once(
    pipeline: Pipeline, start_ingest: StartService
) -> None:
    """A table that was adopted, or filled by an older version; and again where `sensors` was emptied."""
    pipeline.query("INSERT INTO sensor_data SELECT to_timestamp(n * 86400), n % 50 FROM generate_series(1, 200) n")
    pipeline.query("INSERT INTO sensors (id, type) VALUES (5, 'a')")
    others = [(n,) for n in range(50) if n != 5]
    assert start_ingest(pipeline).stop() == 0
    assert pipeline.query(NEVER) == others
    assert pipeline.query(ANNOUNCED) == [(5, "a")]

    pipeline.query("DELETE FROM sensors WHERE id = 8")
    assert start_ingest(pipeline).stop() == 0
    assert (8,) not in pipeline.query(NEVER)

    pipeline.query("TRUNCATE sensors")
    assert start_ingest(pipeline).stop() == 0
    assert pipeline.query(NEVER) == [(n,) for n in range(50)]


def test_processes_that_meet_the_same_sensors_do_not_deadlock(
    make_pipeline: MakePipeline, start_ingest: StartService
) -> None:
    """Ids are stored in order, those of announcements too."""
    pipeline = make_pipeline(partitions=4)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = pipeline.query(deadlocks)
    processes = [start_ingest(pipeline) for _ in range(2)]
    sensors = list(range(2_000))
    for turn in range(10):
        rotated = sensors[turn * 200 :] + sensors[: turn * 200]
        readings = [{"ts": SEED_TS + turn, "sensor_id": 1_000_000 * (turn // 2) + sensor} for sensor in rotated]
        pipeline.produce([readings[i : i + 100] for i in range(0, len(readings), 100)])
        pipeline.announce([[{"id": reading["sensor_id"], "type": str(turn)} for reading in reversed(readings)]])
    wait_for_value(pipeline.count, 10 * len(sensors), deadline=2 * ARRIVAL_SECONDS, what="the readings")
    expected = [(5 * len(sensors),)]
    _become(pipeline, "SELECT count(*) FROM sensors WHERE updated_at > '-infinity'", expected)
    assert pipeline.query("SELECT count(*) FROM sensors") == expected
    assert pipeline.query(deadlocks) == before
    assert [process.metric("sensorlog_ingest_reconnects_total") for process in processes] == [0, 0]


def test_a_sensor_that_cannot_be_registered_keeps_its_readings(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Somebody's own constraint on `sensors` is no reason to lose what was measured."""
    pipeline.query("ALTER TABLE sensors ADD CHECK (type IS NOT NULL)")
    start_ingest(pipeline)
    _report(pipeline, 1, 2)
    assert pipeline.dead_letters() == []
    assert pipeline.query("SELECT count(*) FROM sensors") == [(0,)]


def test_what_is_believed_to_be_stored_ends_with_the_connection(pipeline: Pipeline) -> None:
    """A failover, which may lose commits, ends it."""
    registry = Registry(registry_statements(pipeline.schema))
    readings = _of_sensors(3, 3, 4)
    with pipeline.database.connect() as first:
        registry.register(first, readings)
        pipeline.query("TRUNCATE sensors")
        registry.register(first, readings)
        assert pipeline.query(NEVER) == []
    with pipeline.database.connect() as second:
        registry.register(second, readings)
    assert pipeline.query(NEVER) == [(3,), (4,)]


def _of_sensors(*sensor_ids: int) -> Readings:
    return replace(no_readings(2), sensor_id=np.array(sensor_ids, np.int64))
