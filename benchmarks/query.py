"""`make bench-query`: exports beside plain COPY, calls beside an empty method, in one run."""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.ceiling import copy_rate, documents
from benchmarks.query_calls import Saturation, latencies, saturate
from benchmarks.query_export import Export, check, copy_to_nothing, encoding_rate, export
from benchmarks.query_server import empty_method, query_service
from benchmarks.stage import machine, staged
from benchmarks.workload import Workload
from support.pipelines import Pipeline

ROWS_PER_TRANSACTION = 50_000
RATE = 500
PROCESSES = (1, 2)
TOPICS = ("unused", "unused")
"""Readings are put into the table by COPY."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: repetitions, and how long calls are made in each."""

    workload: Workload
    rounds: int
    seconds: float


@dataclass(slots=True)
class Calls:
    """What each round gave with so many processes."""

    processes: int
    empty: list[Saturation] = field(default_factory=list)
    readings: list[Saturation] = field(default_factory=list)
    milliseconds: list[list[float]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return medians, ratios and quantiles; the latencies of all rounds are one sample."""
        empty, readings = _medians(self.empty), _medians(self.readings)
        sample = sorted(ms for round_ in self.milliseconds for ms in round_)
        return {
            "processes": self.processes,
            "empty": asdict(empty),
            "last_100_readings": asdict(readings),
            "ratio": round(readings.requests_per_second / empty.requests_per_second, 3),
            "ratio_per_core": round(readings.requests_per_cpu_second / empty.requests_per_cpu_second, 3),
            "p50_ms": round(sample[len(sample) // 2], 2),
            "p99_ms": round(sample[len(sample) * 99 // 100], 2),
        }


@dataclass(slots=True)
class Exports:
    """What each round gave, in rows per second."""

    copy: list[float] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    encoding: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return medians and the ratio."""
        rate = statistics.median(run.rows_per_second for run in self.exports)
        return {
            "copy_to_nothing_rows_per_second": round(statistics.median(self.copy)),
            "export_rows_per_second": round(rate),
            "ratio": round(rate / statistics.median(self.copy), 3),
            "service_rows_per_cpu_second": round(statistics.median(run.rows_per_cpu_second for run in self.exports)),
            "encoding_rows_per_cpu_second": round(statistics.median(self.encoding)),
            "peak_memory_mib": round(max(run.peak_memory_mib for run in self.exports)),
        }


def _medians(runs: list[Saturation]) -> Saturation:
    return Saturation(
        statistics.median(run.requests_per_second for run in runs),
        statistics.median(run.requests_per_cpu_second for run in runs),
    )


def measure(pipeline: Pipeline, plan: Plan, exports: Exports, calls: list[Calls]) -> Iterator[str]:
    """Run everything in alternation, filling `exports` and `calls`; yields what comes next, for a progress display."""
    workload, seconds = plan.workload, plan.seconds
    yield f"store {workload.rows:,} readings"
    copy_rate(pipeline, documents(workload, ROWS_PER_TRANSACTION, is_sorted=True), workload.rows)
    pipeline.query("VACUUM ANALYZE sensor_data")
    yield from _measure_exports(pipeline, workload.rows, plan.rounds, exports)
    for number in range(1, plan.rounds + 1):
        for each in calls:
            yield f"round {number}: {each.processes} processes: empty method"
            with empty_method(pipeline, each.processes) as server:
                each.empty.append(saturate(server, seconds))
            yield f"round {number}: {each.processes} processes: last 100 readings of a sensor"
            with query_service(pipeline, each.processes) as server:
                each.readings.append(saturate(server, seconds))
                each.milliseconds.append(latencies(server, RATE, seconds))


def _measure_exports(pipeline: Pipeline, rows: int, rounds: int, exports: Exports) -> Iterator[str]:
    yield "check an export"
    with query_service(pipeline, 1) as server:
        check(server, rows)
    with query_service(pipeline, 1) as server:
        for number in range(1, rounds + 1):
            yield f"round {number}: COPY to nothing"
            exports.copy.append(copy_to_nothing(pipeline, rows))
            yield f"round {number}: export"
            exports.exports.append(export(server, rows))
    yield "encoding"
    exports.encoding += [encoding_rate(pipeline, rows) for _ in range(rounds)]


def tables(exports: dict[str, Any], calls: list[dict[str, Any]]) -> Iterator[Table]:
    """Yield the medians as people read them."""
    result = Table(
        title="Export, rows per second, medians",
        caption="COPY: the same statement, every byte thrown away unread; ratio: export / COPY; per core: of the "
        "service's CPU time, all that it does and the encoding alone; MiB: peak of resident memory",
    )
    for heading in ("COPY", "export", "ratio", "service per core", "encoding per core", "MiB"):
        result.add_column(heading, justify="right")
    rate: Callable[[str], str] = lambda name: f"{exports[name]:,}"  # noqa: E731 -- a format
    result.add_row(
        rate("copy_to_nothing_rows_per_second"),
        rate("export_rows_per_second"),
        f"{exports['ratio']:.2f}",
        rate("service_rows_per_cpu_second"),
        rate("encoding_rows_per_cpu_second"),
        rate("peak_memory_mib"),
    )
    yield result
    result = Table(
        title="Last 100 readings of a sensor, requests per second, medians",
        caption="empty: the same service with a method that does nothing; per core: of the server's CPU time; "
        f"p50 and p99 in milliseconds at {RATE} requests/s",
    )
    for heading in ("processes", "empty", "readings", "ratio", "empty/core", "readings/core", "ratio", "p50", "p99"):
        result.add_column(heading, justify="right")
    for row in calls:
        empty, readings = row["empty"], row["last_100_readings"]
        result.add_row(
            str(row["processes"]),
            f"{empty['requests_per_second']:,.0f}",
            f"{readings['requests_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{empty['requests_per_cpu_second']:,.0f}",
            f"{readings['requests_per_cpu_second']:,.0f}",
            f"{row['ratio_per_core']:.2f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
        )
    yield result


def main(
    rows: Annotated[int, typer.Option(help="Readings in the table.", min=100_000)] = 2_000_000,
    rounds: Annotated[int, typer.Option(help="How often each measurement is repeated.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="How long calls are made in each round.", min=1)] = 8,
    output: Annotated[Path, typer.Option("--json", help="Where the figures go as JSON.")] = Path(
        "benchmarks/results/query.json"
    ),
) -> None:
    """Measure the query service against the plain COPY of the same query and against a gRPC method that is empty.

    A broker and a database are started for it and removed afterwards. Service, client and database share this machine.
    """
    exports, calls = Exports(), [Calls(number) for number in PROCESSES]
    console = Console()
    facts = run(Plan(Workload(rows, 10), rounds, seconds), exports, calls, console)
    summaries = [each.summary() for each in calls]
    for table in tables(exports.summary(), summaries):
        console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "rows": rows,
        "rounds": rounds,
        "seconds": seconds,
        "exports": exports.summary(),
        "calls": summaries,
        "rounds_in_detail": {
            "exports": asdict(exports),
            "calls": [{"empty": [*map(asdict, c.empty)], "readings": [*map(asdict, c.readings)]} for c in calls],
        },
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {output}")


def run(plan: Plan, exports: Exports, calls: list[Calls], console: Console) -> dict[str, str | int]:
    """Measure everything behind a progress display; return the facts of the machine."""
    steps = 3 + 2 * plan.rounds + 2 * plan.rounds * len(calls)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="sensorlog-bench-") as directory,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("start a broker and a database", total=steps)
        with staged(Path(directory)) as stage, stage.pipeline(TOPICS) as pipeline:
            for done, step in enumerate(measure(pipeline, plan, exports, calls)):
                progress.update(task, description=step, completed=done)
            facts = machine(stage.database)
        progress.update(task, description="measured", completed=steps)
    return facts


if __name__ == "__main__":
    typer.run(main)
