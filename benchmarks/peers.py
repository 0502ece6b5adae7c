"""`make bench-peers`: SensorLog beside Telegraf and raw COPY, on the same messages, machine and table, in one run."""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import trials
from benchmarks.comparison import Comparison
from benchmarks.contenders import Entrant
from benchmarks.stage import machine, staged
from benchmarks.telegraf import TelegrafMissingError, executable
from benchmarks.workload import Workload


def speed_summaries(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each contender's medians, and how they compare with raw COPY and with Telegraf."""
    raw = statistics.median(comparison.raw)
    rates = {case: statistics.median(r.rows_per_second for r in runs) for case, runs in comparison.speeds.items()}
    return [
        {
            "readings_per_message": per_message,
            "name": name,
            "rows_per_second": round(rates[per_message, name]),
            "ratio_to_raw": round(rates[per_message, name] / raw, 3),
            "sensorlog_ratio": _ratio(rates[per_message, "SensorLog"], rates[per_message, name]),
            "peak_memory_mib": round(max(run.peak_memory_mib for run in runs)),
            "cpu_seconds_per_million_rows": round(statistics.median(r.cpu_seconds_per_million_rows for r in runs), 2),
            "all_stored_once": all((run.table.stored, run.table.doubled) == (run.table.sent, 0) for run in runs),
        }
        for (per_message, name), runs in comparison.speeds.items()
    ]


def _ratio(rate: float, other: float) -> float | None:
    return round(rate / other, 2) if other else None


def speed_table(raw: float, summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return the medians as people read them."""
    table = Table(
        title="Rows per second, medians",
        caption=f"raw COPY of ready-made buffers: {raw:,.0f}; ratio: to raw COPY, which sends rows in order of arrival "
        "while ingest sorts them by the index; SensorLog is: so many times as fast; MiB: peak of resident "
        "memory; CPU s: of the process, per million rows",
    )
    for heading in ("per message", "", "rows/s", "ratio", "SensorLog is", "MiB", "CPU s", "stored once"):
        table.add_column(heading, justify="right")
    for summary in summaries:
        table.add_row(
            str(summary["readings_per_message"]),
            summary["name"],
            f"{summary['rows_per_second']:,}",
            f"{summary['ratio_to_raw']:.2f}",
            "-" if summary["sensorlog_ratio"] is None else f"{summary['sensorlog_ratio']:.2f}x",
            str(summary["peak_memory_mib"]),
            f"{summary['cpu_seconds_per_million_rows']:.2f}",
            "yes" if summary["all_stored_once"] else "no",
        )
    return table


def trials_table(outcomes: Sequence[tuple[str, str, trials.Table]]) -> Table:
    """Return what was in the table after each trial."""
    result = Table(
        title="After kills, malformed messages and an outage",
        caption="lost: good readings that are read and not stored; doubled: rows too many; damaged: rows that nobody "
        "sent like that; dead letters: malformed messages kept with their reason; s: until nothing moved any more",
    )
    for heading in ("trial", "", "good", "stored", "lost", "doubled", "damaged", "dead letters", "s", "end"):
        result.add_column(heading, justify="left" if heading in ("trial", "", "end") else "right")
    for trial, name, table in outcomes:
        counts = (table.sent, table.stored, table.lost, table.doubled, table.damaged, table.dead_letters)
        result.add_row(trial, name, *(f"{count:,}" for count in counts), f"{table.seconds:.0f}", table.end)
    return result


def settings_table(entrants: Sequence[tuple[int, Entrant]]) -> Table:
    """Return what each was given."""
    result = Table(title="What each is given")
    for heading in ("per message", "", "version", "settings"):
        result.add_column(heading)
    for per_message, entrant in entrants:
        settings = ", ".join(
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
            for name, value in entrant.settings.items()
        )
        result.add_row(str(per_message), entrant.name, entrant.version, settings)
    return result


def document(comparison: Comparison, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was seen, for JSON."""
    entrants = [(workload.per_message, e) for workload in comparison.workloads for e in comparison.entrants(workload)]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "rows": comparison.workloads[0].rows,
        "rounds": comparison.rounds,
        "contenders": [
            {"readings_per_message": size, "name": e.name, "version": e.version, "settings": e.settings}
            for size, e in entrants
        ],
        "tuning": comparison.tuning,
        "raw_rows_per_second": round(statistics.median(comparison.raw)),
        "speed": speed_summaries(comparison),
        "speed_in_detail": [
            {"readings_per_message": size, "name": name, "runs": [asdict(run) for run in runs]}
            for (size, name), runs in comparison.speeds.items()
        ],
        "raw_in_detail": comparison.raw,
        "trials": [
            {"trial": trial, "name": name, "lost": table.lost, "end": table.end, **asdict(table)}
            for trial, name, table in comparison.outcomes
        ],
    }


def main(
    *,
    rows: Annotated[int, typer.Option(help="Readings in each topic.", min=100_000)] = 2_000_000,
    rounds: Annotated[int, typer.Option(help="How often each speed is measured.", min=1)] = 3,
    per_message: Annotated[
        list[int] | None,
        typer.Option(
            help="Readings in a message; repeatable, the first is that of the kills and the outage.",
            show_default="10 and 1",
        ),
    ] = None,
    kills: Annotated[int, typer.Option(help="How often each is killed.", min=1)] = 2,
    tune: Annotated[bool, typer.Option(help="Try Telegraf's settings first and take the fastest.")] = True,
    with_trials: Annotated[bool, typer.Option("--trials/--no-trials", help="Kills, poison and outage too.")] = True,
    output: Annotated[Path, typer.Option("--json", help="Where the figures go as JSON.")] = Path(
        "benchmarks/results/peers.json"
    ),
) -> None:
    """Compare SensorLog with Telegraf: the same messages, table, database settings, trials and run.

    A broker and a database are started for it and removed afterwards.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    try:
        executable()
    except TelegrafMissingError as e:
        console.print(str(e))
        raise typer.Exit(1) from None
    workloads = [Workload(rows, size) for size in per_message or [10, 1]]
    with (
        tempfile.TemporaryDirectory(prefix="sensorlog-bench-") as directory,
        Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress,
    ):
        task = progress.add_task("start a broker and a database")
        with staged(Path(directory)) as stage:
            comparison = Comparison(stage, workloads, rounds, kills)
            for step in comparison.run(tune=tune, with_trials=with_trials):
                progress.update(task, description=step)
                if not console.is_terminal:  # which shows no progress until the end
                    console.print(step)
            facts = machine(stage.database)
        progress.update(task, description="measured")
    report = document(comparison, facts)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    entrants = [(workload.per_message, e) for workload in workloads for e in comparison.entrants(workload)]
    console.print(settings_table(entrants))
    console.print(speed_table(report["raw_rows_per_second"], report["speed"]))
    if comparison.outcomes:
        console.print(trials_table(comparison.outcomes))
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    console.print(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
