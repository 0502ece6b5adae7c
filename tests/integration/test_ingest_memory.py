"""Ingest's memory is bounded, whatever waits in the topic: docs/benchmarks.md states the bound."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from support.pipelines import SEED_TS, MakePipeline
from support.processes import StartService
from support.streams import unique_readings
from support.waiting import wait_until

pytestmark = pytest.mark.integration

MIB = 2**20
BOUND = 300 * MIB
LARGEST = 16 * MIB


def large_readings(count: int, *, per_message: int) -> Iterator[list[dict[str, Any]]]:
    """Yield messages of readings that all differ, in long numbers."""
    for start in range(0, count, per_message):
        yield [
            {"ts": SEED_TS + n, "sensor_id": n, "temperature": n / 7 % 100, "cpu": n / 3 % 100}
            for n in range(start, start + per_message)
        ]


def test_backlog_of_10_mib_messages(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """Messages as large as three batches do not add up, even while the table is locked and all that may wait waits."""
    pipeline = make_pipeline(partitions=6, topic_config={"max.message.bytes": str(LARGEST)})
    count, per_message = 1_500_000, 125_000
    process = start_ingest(pipeline)
    with pipeline.locked():
        pipeline.produce(large_readings(count, per_message=per_message), message_max_bytes=LARGEST)
        wait_until(lambda: process.metric("sensorlog_ingest_pauses_total"), deadline=60, what="fetching to be paused")
    wait_until(pipeline.count, lambda n: n >= count, deadline=120, what=f"{count} readings")
    assert pipeline.counts() == (count, count)
    assert process.peak_memory < BOUND


def test_large_messages_after_small_ones(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """What was learnt of small messages, to fetch thousands at once, is no harm when large ones follow."""
    pipeline = make_pipeline(partitions=1, topic_config={"max.message.bytes": str(LARGEST)})
    small, large = 100_000, 500_000
    readings = itertools.chain(
        unique_readings(small, per_message=1), large_readings(small + large, per_message=100_000)
    )
    pipeline.produce(readings, message_max_bytes=LARGEST)
    process = start_ingest(pipeline)
    total = 2 * small + large
    wait_until(pipeline.count, lambda n: n >= total, deadline=120, what=f"{total} readings")
    assert process.peak_memory < BOUND
