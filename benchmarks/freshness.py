"""How long a reading takes from produce() until a query finds it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.stage import Stage
from benchmarks.workload import PARTITIONS
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess

LOOK_SECONDS = 0.005
"""Pause between two looks into the table: how exact the figures are."""

PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Freshness:
    """Percentiles of the delay in seconds, over all readings sent at a steady rate."""

    readings_per_second: int
    p50: float
    p99: float
    longest: float


def freshness(stage: Stage, per_second: int, seconds: int) -> Freshness:
    """Send single readings at a rate to an ingest process with default settings, and watch them arrive."""
    topic = f"freshness-{time.time_ns()}"
    stage.broker.create_topic(topic, PARTITIONS)
    with stage.pipeline((topic, "sensors")) as pipeline:
        process = ServiceProcess("sensorlog_ingest", pipeline.environment, pipeline.directory / "ingest.log")
        try:
            process.wait_ready()
            delays = _delays(pipeline, per_second, per_second * seconds)
            assert process.stop() == 0, process.logs
        finally:
            if process.is_running:
                process.kill()
    p50, p99 = np.percentile(delays, [50, 99])
    return Freshness(per_second, float(p50), float(p99), float(delays.max()))


def _delays(pipeline: Pipeline, per_second: int, count: int) -> NDArray[np.float64]:
    sent: NDArray[np.float64] = np.full(count, np.nan)
    seen: NDArray[np.float64] = np.full(count, np.nan)

    def values() -> Iterator[bytes]:
        started = time.monotonic()
        for number in range(count):
            ahead = number / per_second - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)  # keeps the rate
            sent[number] = time.monotonic()
            yield b'{"ts":%d,"sensor_id":%d,"temperature":20.5,"cpu":50}' % (SEED_TS, number)

    producer = threading.Thread(target=lambda: pipeline.produce(values(), linger_ms=5), daemon=True)
    producer.start()
    _watch(pipeline, seen)
    producer.join()
    return seen - sent


def _watch(pipeline: Pipeline, seen: NDArray[np.float64]) -> None:
    """Note when each reading, which is the only one of its sensor, is first found."""
    statement = f"SELECT sensor_id FROM {pipeline.schema}.sensor_data WHERE sensor_id >= %s".encode()
    last_found = time.monotonic()
    with pipeline.database.connect() as connection:
        while (missing := np.flatnonzero(np.isnan(seen))).size:
            found = np.array([row[0] for row in connection.execute(statement, [int(missing[0])])], np.int64)
            now = time.monotonic()
            new = found[np.isnan(seen[found])]
            seen[new] = now
            last_found = now if new.size else last_found
            assert now - last_found < PATIENCE_SECONDS, f"{missing.size} readings did not arrive"
            time.sleep(LOOK_SECONDS)
