"""How long the database takes to find the last reading of each sensor, however much is stored."""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.sql import SQL, Composable
from rich.console import Console

from benchmarks.stage import Stage, machine, staged
from sensorlog.measurements import names
from sensorlog_ingest.sql import registry_statements
from sensorlog_query import microseconds
from sensorlog_query.chunks import chunks_of, steps
from sensorlog_query.latest import MAX_RESULTS, LatestReader, parameters, sample_of
from sensorlog_query.microseconds import BEGINNING, END
from sensorlog_query.sql import Statements
from sensorlog_query.validation import Selection
from support.pipelines import Pipeline

START = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = Selection(BEGINNING, END, ())

# In the order of time, as ingest stores them: all sensors once a minute, a day at a time.
FILL = """
INSERT INTO sensor_data
SELECT %(start)s::timestamptz + interval '1 minute' * minute, sensor, sensor %% 100, minute %% 100
FROM generate_series(%(first)s::int, %(last)s::int) AS minute, generate_series(1, %(sensors)s::int) AS sensor
"""
MINUTES_OF_A_DAY = 1_440


def main(
    *,
    rows: Annotated[int, typer.Option(min=1, help="Readings that are stored, in chunks of a day.")] = 20_000_000,
    sensors: Annotated[int, typer.Option(min=1, help="Sensors that report, each once a minute.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often the question is asked.")] = 20,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("benchmarks/results/latest.json"),
) -> None:
    """Measure what GetLatestSensorData for all sensors costs the database.

    A broker and a database are started for it and removed afterwards; the broker is not used.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="sensorlog-bench-") as directory, staged(Path(directory)) as stage:
        report = run(stage, max(1, rows // sensors), sensors, rounds, console)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(json.dumps(report, indent=2))
    console.print(f"written to {output}")


def run(stage: Stage, minutes: int, sensors: int, rounds: int, console: Console) -> dict[str, Any]:
    """Fill a pipeline and return what was measured on it."""
    with stage.pipeline(("readings", "sensors")) as pipeline:
        started = time.monotonic()
        for first in range(0, minutes, MINUTES_OF_A_DAY):
            last = min(first + MINUTES_OF_A_DAY, minutes) - 1
            pipeline.query(FILL, {"start": START, "first": first, "last": last, "sensors": sensors})
            console.print(f"{(last + 1) * sensors:,} readings, {time.monotonic() - started:.0f} s")
        with pipeline.database.connect() as connection:
            connection.execute(registry_statements(pipeline.schema).register, {"ids": list(range(1, sensors + 1))})
            connection.execute(f"VACUUM (ANALYZE) {pipeline.schema}.sensor_data".encode())
            connection.execute(f"ANALYZE {pipeline.schema}.sensors".encode())
            connection.execute("CHECKPOINT")
        measured = measure(pipeline, sensors, rounds)
        return {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(stage.database),
            "rows": minutes * sensors,
            "sensors": sensors,
            **measured,
        }


def measure(pipeline: Pipeline, sensors: int, rounds: int) -> dict[str, Any]:
    """Ask as the service does, and return what EXPLAIN ANALYZE says of its statements, in milliseconds."""
    statements = Statements(pipeline.schema, names(pipeline.config.measurements))
    with pipeline.database.connect() as connection:
        microseconds.register(connection)
        connection.execute("SET max_parallel_workers_per_gather = 0")  # as the service's connections
        cursor = connection.cursor(binary=True)
        chunks = chunks_of(cursor, statements, EVERYTHING)
        newest = next(steps(chunks, descending=True))
        step = replace(newest, sensor_ids=tuple(range(1, sensors + 1)))
        reader = LatestReader(cursor, statements, lambda: None)
        recent = replace(step, start=reader.reach(step))
        assert len(cursor.execute(statements.recent(), parameters(recent)).fetchall()) == sensors
        everything = {"schema": pipeline.schema, "start": BEGINNING, "end": END}
        sample = replace(step, sensor_ids=sample_of(step.sensor_ids))
        return {
            "chunks": len(chunks),
            "list_of_sensors_ms": _milliseconds(cursor, statements.sensor_ids(), {"limit": MAX_RESULTS + 1}, rounds),
            "list_of_chunks_ms": _milliseconds(cursor, statements.chunks(), everything, rounds),
            "reach_ms": _milliseconds(cursor, statements.reach(), parameters(sample), rounds),
            "last_readings_ms": _milliseconds(cursor, statements.recent(), parameters(recent), rounds),
        }


def _milliseconds(
    cursor: psycopg.Cursor[Any], statement: Composable, parameters: dict[str, Any], rounds: int
) -> dict[str, float]:
    explain = SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ") + statement
    times = []
    for _ in range(rounds):
        row = cursor.execute(explain, parameters).fetchone()
        assert row is not None
        times.append(row[0][0]["Planning Time"] + row[0][0]["Execution Time"])
    return {"least": round(min(times), 1), "median": round(statistics.median(times), 1), "most": round(max(times), 1)}


if __name__ == "__main__":
    typer.run(main)
