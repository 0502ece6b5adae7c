"""One ingest process, as the operator's Deployment runs it, from a full topic until everything is stored."""

import time
from dataclasses import dataclass

import psutil
import psycopg

from benchmarks.workload import Workload
from support.pipelines import Pipeline
from support.processes import ServiceProcess

POLL_SECONDS = 0.02
DEADLINE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class IngestRun:
    """What one run showed. `rows_per_second` counts from the first commit on: the start of a process is no speed."""

    rows_per_second: float
    peak_memory_mib: float
    cpu_seconds_per_million_rows: float


def ingest(pipeline: Pipeline, workload: Workload) -> IngestRun:
    """Let one ingest process store the workload, which is in the topic, and check that every reading is there once."""
    process = ServiceProcess("sensorlog_ingest", pipeline.environment, pipeline.directory / "ingest.log")
    try:
        rate = _rate(pipeline, process, workload)
        seen = psutil.Process(process.process.pid)
        times = seen.cpu_times()
        run = IngestRun(
            rows_per_second=rate,
            peak_memory_mib=process.peak_memory / 2**20,
            cpu_seconds_per_million_rows=(times.user + times.system) / workload.rows * 1e6,
        )
        assert process.stop() == 0, process.logs
    finally:
        if process.is_running:
            process.kill()
    assert pipeline.counts() == (workload.rows, workload.rows)
    return run


def _rate(pipeline: Pipeline, process: ServiceProcess, workload: Workload) -> float:
    deadline = time.monotonic() + DEADLINE_SECONDS
    with pipeline.database.connect() as connection:
        first = _wait_for_messages(connection, pipeline, process, 1, deadline)
        started = time.monotonic()
        _wait_for_messages(connection, pipeline, process, workload.messages, deadline)
        seconds = time.monotonic() - started
    return (workload.messages - first) * workload.per_message / seconds


def _wait_for_messages(
    connection: "psycopg.Connection[tuple[int, ...]]",
    pipeline: Pipeline,
    process: ServiceProcess,
    count: int,
    deadline: float,
) -> int:
    while True:
        stored = stored_messages(connection, pipeline.schema)
        if stored >= count:
            return stored
        assert process.is_running, process.logs
        assert time.monotonic() < deadline, f"{stored} of {count} messages are stored:\n{process.logs[-2000:]}"
        time.sleep(POLL_SECONDS)


def stored_messages(connection: "psycopg.Connection[tuple[int, ...]]", schema: str) -> int:
    """Return how many messages of a pipeline are committed, at the price of reading a row for each partition."""
    row = connection.execute(f"SELECT coalesce(sum(next_offset), 0)::bigint FROM {schema}.ingest_offsets".encode())
    return int(row.fetchall()[0][0])
