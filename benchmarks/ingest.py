"""`make bench-ingest`: how fast ingest is, beside what the database can take at most, in one run."""

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.ceiling import copy_rate, documents
from benchmarks.freshness import Freshness, freshness
from benchmarks.ingester import IngestRun, ingest
from benchmarks.stage import Stage, machine, staged
from benchmarks.workload import Workload

ROWS_PER_TRANSACTION = 50_000
"""The pipeline's default batch.maxRows."""


FRESHNESS_RATE, FRESHNESS_SECONDS = 1_000, 30
"""Readings per second, and for how long they are sent."""


@dataclass(slots=True)
class Case:
    """One combination of message size and index, with what each round gave (rows per second)."""

    workload: Workload
    index: bool
    raw: list[float] = field(default_factory=list)
    raw_sorted: list[float] = field(default_factory=list)
    ingest: list[IngestRun] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How tables name it."""
        return f"{self.workload.per_message} a message, {'with' if self.index else 'without'} index"

    def summary(self) -> dict[str, Any]:
        """Return medians and ratios."""
        raw, raw_sorted = statistics.median(self.raw), statistics.median(self.raw_sorted)
        rate = statistics.median(run.rows_per_second for run in self.ingest)
        return {
            "readings_per_message": self.workload.per_message,
            "index": self.index,
            "raw_rows_per_second": round(raw),
            "raw_sorted_rows_per_second": round(raw_sorted),
            "ingest_rows_per_second": round(rate),
            "ratio": round(rate / raw, 3),
            "ratio_to_sorted": round(rate / raw_sorted, 3),
            "ingest_peak_memory_mib": round(max(run.peak_memory_mib for run in self.ingest)),
            "ingest_cpu_seconds_per_million_rows": round(
                statistics.median(run.cpu_seconds_per_million_rows for run in self.ingest), 2
            ),
        }


def measure(stage: Stage, cases: Sequence[Case], rounds: int) -> Iterator[str]:
    """Run everything in alternation, filling the cases; yields what comes next, for a progress display."""
    topics: dict[int, tuple[str, str]] = {}
    stage.broker.create_topic("sensors")
    for workload in {case.workload.per_message: case.workload for case in cases}.values():
        yield f"produce {workload.messages:,} messages of {workload.per_message}"
        topics[workload.per_message] = (f"readings-{workload.per_message}", "sensors")
        workload.produce(stage.broker, topics[workload.per_message][0])
    in_order = documents(cases[0].workload, ROWS_PER_TRANSACTION, is_sorted=False)
    in_index_order = documents(cases[0].workload, ROWS_PER_TRANSACTION, is_sorted=True)
    for number in range(1, rounds + 1):
        for case in cases:
            here = topics[case.workload.per_message]
            for rates, copies in ((case.raw, in_order), (case.raw_sorted, in_index_order)):
                yield f"round {number}: {case.name}: raw COPY"
                with stage.pipeline(here, index=case.index) as pipeline:
                    rates.append(copy_rate(pipeline, copies, case.workload.rows))
            yield f"round {number}: {case.name}: ingest"
            with stage.pipeline(here, index=case.index) as pipeline:
                case.ingest.append(ingest(pipeline, case.workload))


def table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Return the medians as people read them."""
    result = Table(
        title="Rows per second, medians",
        caption="raw: binary COPY of ready-made buffers in order of arrival; sorted: the same, each buffer in the "
        "index's order; ratio: ingest / raw; MiB: peak of resident memory; CPU s: of ingest, per million rows",
    )
    for heading in ("per message", "index", "raw", "sorted", "ingest", "ratio", "MiB", "CPU s"):
        result.add_column(heading, justify="right")
    for summary in summaries:
        result.add_row(
            str(summary["readings_per_message"]),
            "yes" if summary["index"] else "no",
            *(f"{summary[f'{name}_rows_per_second']:,}" for name in ("raw", "raw_sorted", "ingest")),
            f"{summary['ratio']:.2f}",
            str(summary["ingest_peak_memory_mib"]),
            f"{summary['ingest_cpu_seconds_per_million_rows']:.2f}",
        )
    return result


def main(
    rows: Annotated[int, typer.Option(help="Readings in each topic.", min=100_000)] = 2_000_000,
    rounds: Annotated[int, typer.Option(help="How often each measurement is repeated.", min=1)] = 5,
    per_message: Annotated[
        list[int] | None, typer.Option(help="Readings in a message; repeatable.", show_default="10 and 1")
    ] = None,
    index: Annotated[
        bool | None, typer.Option("--index/--no-index", help="Only with, or only without the index.")
    ] = None,
    output: Annotated[Path, typer.Option("--json", help="Where the figures go as JSON.")] = Path(
        "benchmarks/results/ingest.json"
    ),
) -> None:
    """Measure ingest against raw binary COPY of ready-made buffers: same machine, table, transactions and run.

    A broker and a database are started for it and removed afterwards. Ingest runs with default settings from a full
    topic; both write transactions of 50,000 rows on one connection.
    """
    cases = [
        Case(Workload(rows, size), has_index)
        for size in per_message or [10, 1]
        for has_index in ([True, False] if index is None else [index])
    ]
    console = Console()
    fresh, facts = run(cases, rounds, console)
    summaries = [case.summary() for case in cases]
    console.print(table(summaries))
    console.print(
        f"From produce() to visible, {fresh.readings_per_second:,} readings/s, default settings:"
        f" p50 {fresh.p50:.3f} s, p99 {fresh.p99:.3f} s, longest {fresh.longest:.3f} s"
    )
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "rows": rows,
        "rounds": rounds,
        "rows_per_transaction": ROWS_PER_TRANSACTION,
        "cases": summaries,
        "freshness_seconds": asdict(fresh),
        "rounds_in_detail": [asdict(case) for case in cases],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {output}")


def run(cases: Sequence[Case], rounds: int, console: Console) -> tuple[Freshness, dict[str, str | int]]:
    """Measure everything behind a progress display; return the freshness and the facts of the machine."""
    steps = len({case.workload.per_message for case in cases}) + 3 * rounds * len(cases) + 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="sensorlog-bench-") as directory,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("start a broker and a database", total=steps)
        with staged(Path(directory)) as stage:
            for done, step in enumerate(measure(stage, cases, rounds)):
                progress.update(task, description=step, completed=done)
            progress.update(task, description="freshness", completed=steps - 1)
            fresh = freshness(stage, FRESHNESS_RATE, FRESHNESS_SECONDS)
            facts = machine(stage.database)
        progress.update(task, description="measured", completed=steps)
    return fresh, facts


if __name__ == "__main__":
    typer.run(main)
