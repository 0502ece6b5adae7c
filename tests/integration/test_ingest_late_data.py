"""Late readings, in any order, land where their time says; see docs/late-data.md."""

import random
import time
from datetime import timedelta
from typing import Any

import pytest

from support.pipelines import SEED_TS, Pipeline
from support.processes import StartService
from support.waiting import wait_for_value

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 30
DAY = int(timedelta(days=1).total_seconds())

Reading = dict[str, Any]


def arrive(pipeline: Pipeline, readings: list[Reading]) -> None:
    """Wait for these readings, and compare them: each is stored once, with its values, in the chunk of its time."""
    wait_for_value(pipeline.count, len(readings), deadline=ARRIVAL_SECONDS, what="the number of readings")
    columns = ("ts", "sensor_id", "temperature", "cpu")
    assert pipeline.query(
        "SELECT extract(epoch FROM time)::bigint, sensor_id, temperature, cpu FROM sensor_data ORDER BY 1, 2"
    ) == sorted(tuple(reading[column] for column in columns) for reading in readings)
    assert rows_in_their_chunks(pipeline) == len(readings)


def rows_in_their_chunks(pipeline: Pipeline) -> int:
    """Return how many rows lie in a chunk whose range holds their time."""
    statement = """
    SELECT count(*)
    FROM sensor_data AS d
    JOIN timescaledb_information.chunks AS c ON d.tableoid = format('%%I.%%I', c.chunk_schema, c.chunk_name)::regclass
    WHERE c.hypertable_schema = %s AND d.time >= c.range_start AND d.time < c.range_end
    """
    return int(pipeline.query(statement, [pipeline.schema])[0][0])


def chunks(pipeline: Pipeline) -> int:
    """Return how many chunks there are."""
    return len(pipeline.query("SELECT show_chunks('sensor_data')"))


def readings_at(*times: int) -> list[Reading]:
    """Return a reading for each `ts`, all different."""
    return [{"ts": ts, "sensor_id": number, "temperature": number / 8, "cpu": 1.5} for number, ts in enumerate(times)]


def test_out_of_order_over_days(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Messages of ten days in no order at all, in many batches: every reading is in its day's chunk."""
    start_ingest(pipeline)
    start = SEED_TS - SEED_TS % DAY
    readings = readings_at(*range(start, start + 10 * DAY, 600))
    shuffled = random.Random(7).sample(readings, len(readings))  # noqa: S311 -- the same order each time
    for part in range(3):
        pipeline.produce([shuffled[at : at + 10] for at in range(part * 10, len(shuffled), 30)])
    arrive(pipeline, readings)
    assert chunks(pipeline) == 10
    assert pipeline.dead_letters() == []


def test_older_than_every_chunk_in_a_batch_with_new_ones(pipeline: Pipeline, start_ingest: StartService) -> None:
    """One message, so one transaction: readings of now, of last year, and of the first second that is accepted."""
    start_ingest(pipeline)
    now = int(time.time())
    readings = readings_at(now, now + 1, now - 365 * DAY, 0, now - 3 * DAY, now + 2)
    pipeline.produce([readings[:2]])
    arrive(pipeline, readings[:2])
    pipeline.produce([readings[2:]])
    arrive(pipeline, readings)
    assert pipeline.dead_letters() == []


def test_older_than_the_retention(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Such a reading is stored, goes with the next run of the retention, and may come again."""
    start_ingest(pipeline)
    now = int(time.time())
    old, new = readings_at(now - 100 * DAY, now)
    pipeline.produce([[old, new]])
    arrive(pipeline, [old, new])
    for _ in range(2):
        pipeline.query("SELECT drop_chunks('sensor_data', older_than => INTERVAL '90 days')")
        arrive(pipeline, [new])
        pipeline.produce([old])
        arrive(pipeline, [old, new])
    assert pipeline.dead_letters() == []


def test_late_for_a_chunk_that_takes_no_more(pipeline: Pipeline, start_ingest: StartService) -> None:
    """TimescaleDB refuses the row with 0A000: it becomes a dead letter, and the rest of its message is stored."""
    start_ingest(pipeline)
    first, late, new = readings_at(SEED_TS, SEED_TS + 1, SEED_TS + 2 * DAY)
    pipeline.produce([first])
    arrive(pipeline, [first])
    freeze_chunks(pipeline)
    pipeline.produce([[late, new]])
    arrive(pipeline, [first, new])
    ((reason, detail, value),) = pipeline.dead_letters()
    assert reason == "database_rejected"
    assert "SQLSTATE 0A000: cannot INSERT into frozen chunk" in detail
    assert value is not None
    assert b'"sensor_id": 1' in value
    assert b'"sensor_id": 2' not in value


def freeze_chunks(pipeline: Pipeline) -> None:
    """Freeze the chunks there are, as tiering does; the function for it is not in the Apache edition."""
    frozen = 4  # a bit of chunk.status
    pipeline.query(
        """
        UPDATE _timescaledb_catalog.chunk SET status = status | %s
        WHERE hypertable_id = (SELECT id FROM _timescaledb_catalog.hypertable WHERE schema_name = %s)
        """,
        [frozen, pipeline.schema],
    )
