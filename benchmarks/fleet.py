"""`make bench-operator`: how soon a thousand pipelines are ready, and what the operator costs from then on.

The API server, the broker and the database are real. No pod runs: a thread says of each Deployment that its pods are
ready, and writes into each schema, twice in a period, that a batch of readings was stored.
"""

import base64
import contextlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.meters import Meters, Work
from benchmarks.stage import Stage, machine, staged
from sensorlog_operator.models import default_schema
from support.apiserver import ApiServer, Object
from support.containers import ContainerEngine
from support.database import Database
from support.kubelet import Kubelet
from support.operated import OperatedPipeline, login, operated_api_server, start_operator
from support.processes import ServiceProcess, peak_memory

NAMESPACES = 10
CREATORS = 4
SETTLE_PERIODS = 2
"""Periods that pass between the last pipeline's becoming ready and the first measurement."""

MOST_CORES = 0.2
MOST_MEMORY = 300 * 2**20
CONVERGE_SECONDS = 3600
SECRET = "timescaledb"  # noqa: S105 -- its name

ALL_PIPELINES = "/apis/sensorlog.dev/v1alpha1/sensorlogpipelines?resourceVersion=0"

STORE = """
INSERT INTO {schema}.ingest_batches (rows, first_time, last_time) VALUES
(1000 * random(), now() - interval '1 s', now())
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    pipelines: int
    partitions: int
    resync: float
    periods: int
    workers: int
    live: bool


@dataclass(slots=True)
class Fleet:
    """Pipelines over some namespaces, and what runs for them."""

    plan: Plan
    stage: Stage
    server: ApiServer
    console: Console
    pipelines: list[OperatedPipeline] = field(default_factory=list)

    def create(self) -> None:
        """Create namespaces, Secrets and pipelines, as fast as the API server takes them."""
        uri = login(self.stage.database).uri
        namespaces = [f"plants-{n}" for n in range(min(NAMESPACES, self.plan.pipelines))]
        for namespace in namespaces:
            self.server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            data = {"uri": base64.b64encode(uri.encode()).decode()}
            body = {"metadata": {"name": SECRET}, "data": data}
            self.server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", body)
        self.pipelines = [
            OperatedPipeline(self.server, self.stage.broker, namespaces[n % len(namespaces)], f"plant-{n:04}")
            for n in range(self.plan.pipelines)
        ]
        with ThreadPoolExecutor(CREATORS) as pool:
            list(pool.map(self._create, self.pipelines))

    def _create(self, pipeline: OperatedPipeline) -> None:
        pipeline.create(kafka={"readings": {"partitions": self.plan.partitions}})

    def ready(self) -> int:
        """Return how many pipelines are ready."""
        return sum(map(_is_ready, self.server.call("GET", ALL_PIPELINES)["items"]))

    def wait_ready(self, operator: ServiceProcess) -> float:
        """Wait until all are ready; return how long that took, in seconds."""
        started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("pipelines ready", total=len(self.pipelines))
            while (ready := self.ready()) < len(self.pipelines):
                assert operator.is_running, operator.logs[-4000:]
                assert time.monotonic() - started < CONVERGE_SECONDS, f"only {ready} pipelines are ready"
                progress.update(task, completed=ready)
                time.sleep(2)
            progress.update(task, completed=ready)
        return time.monotonic() - started

    @contextlib.contextmanager
    def fed(self, meters: Meters) -> Iterator[None]:
        """Store batches in every schema within this block, as the pipelines' ingest would."""
        over = threading.Event()
        thread = threading.Thread(target=self._feed, args=(meters, over))
        if self.plan.live:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self.plan.live:
                thread.join()

    def _feed(self, meters: Meters, over: threading.Event) -> None:
        schemas = [default_schema(pipeline.namespace, pipeline.name) for pipeline in self.pipelines]
        statement = ";".join(STORE.format(schema=schema) for schema in schemas)
        while not over.is_set():
            _execute_all(self.stage.database, statement)
            meters.own += 1
            over.wait(self.plan.resync / 2)


def _execute_all(database: Database, statements: str) -> None:
    with database.connect() as connection:
        connection.execute(statements.encode())


def _is_ready(body: Object) -> bool:
    conditions = body.get("status", {}).get("conditions", ())
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def main(
    *,
    pipelines: Annotated[int, typer.Option(min=1, help="Pipelines that exist.")] = 1000,
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic of readings.")] = 3,
    resync: Annotated[float, typer.Option(min=1, help="Seconds in which every pipeline is looked at once.")] = 60,
    periods: Annotated[int, typer.Option(min=1, help="Such periods that are measured.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="The operator's workers.")] = 4,
    live: Annotated[bool, typer.Option(help="Whether figures in status change in every period.")] = True,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("benchmarks/results/operator.json"),
    log: Annotated[Path | None, typer.Option(help="Where the operator's log goes.")] = None,
) -> None:
    """Measure an operator with many pipelines.

    An API server, a broker and a database are started for it and removed afterwards.
    """
    console = Console()
    plan = Plan(pipelines, partitions, resync, periods, workers, live)
    engine = ContainerEngine()
    with (
        contextlib.closing(engine),
        tempfile.TemporaryDirectory(prefix="sensorlog-bench-") as directory,
        staged(Path(directory)) as stage,
        operated_api_server(engine) as server,
        Kubelet(server),
    ):
        try:
            report = run(Fleet(plan, stage, server, console))
        finally:
            if log:
                log.write_text((Path(directory) / "operator.log").read_text())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(report, console)
    console.print(f"written to {output}")


def run(fleet: Fleet) -> dict[str, Any]:
    """Let an operator bring all pipelines up and keep them; return what was measured."""
    plan = fleet.plan
    fleet.create()
    settings = {"RESYNC_SECONDS": str(plan.resync), "WORKERS": str(plan.workers), "LOG_LEVEL": "INFO"}
    operator = start_operator(fleet.server, fleet.stage.directory, **{f"SENSORLOG_{k}": v for k, v in settings.items()})
    try:
        meters = Meters(operator.wait_ready(), fleet.server, fleet.stage.database)
        before = meters.read()
        seconds = fleet.wait_ready(operator)
        converging = meters.read().since(before)
        with fleet.fed(meters):
            fleet.console.print(f"settling for {SETTLE_PERIODS * plan.resync:.0f} s")
            time.sleep(SETTLE_PERIODS * plan.resync)
            steady, memory = observe(fleet, meters)
        return {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(fleet.stage.database),
            "pipelines": plan.pipelines,
            "partitions": plan.partitions,
            "resync_seconds": plan.resync,
            "workers": plan.workers,
            "live": plan.live,
            "converged_seconds": round(seconds, 1),
            "converging_cpu_seconds": round(converging.cpu_seconds, 1),
            "converging": _calls(converging, 1),
            "cores": round(steady.cores, 3),
            "resident_mib": round(memory / 2**20),
            "peak_mib": round(peak_memory(operator.process.pid) / 2**20),
            "per_resync": _calls(steady, steady.seconds / plan.resync),
        }
    finally:
        operator.end()


def observe(fleet: Fleet, meters: Meters) -> tuple[Work, int]:
    """Return what the operator did in the measured periods, and the most memory that it had meanwhile."""
    before, memory = meters.read(), 0
    end = time.monotonic() + fleet.plan.periods * fleet.plan.resync
    with Progress(console=fleet.console) as progress:
        task = progress.add_task("steady state", total=fleet.plan.periods * fleet.plan.resync)
        while (left := end - time.monotonic()) > 0:
            memory = max(memory, meters.resident)
            progress.update(task, completed=fleet.plan.periods * fleet.plan.resync - left)
            time.sleep(min(1.0, left))
    return meters.read().since(before), memory


def _calls(work: Work, periods: float) -> dict[str, Any]:
    def each(counts: Counter[str]) -> dict[str, float]:
        return {name: round(count / periods, 1) for name, count in counts.most_common()}

    return {
        "reconciles": round(work.reconciles / periods, 1),
        "api": each(work.api),
        "kafka": each(work.kafka),
        "database_transactions": round(work.transactions / periods, 1),
        "database_connections": round(work.sessions / periods, 1),
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures: what is bound beside its bound, and calls in a period, each also of one pipeline."""
    count = report["pipelines"]
    console.print(f"{count} pipelines ready after {report['converged_seconds']} s")
    bounds = Table("steady state", "measured", "bar", "of it")
    bounds.add_row("cores", f"{report['cores']:.3f}", f"{MOST_CORES}", _bar(report["cores"] / MOST_CORES))
    most = MOST_MEMORY / 2**20
    bounds.add_row("memory, MiB", f"{report['resident_mib']}", f"{most:.0f}", _bar(report["resident_mib"] / most))
    console.print(bounds)
    calls = Table("calls per resync", "in all", "per pipeline")
    steady = report["per_resync"]
    rows = {
        "reconciles": steady["reconciles"],
        **{f"API server: {name}": calls for name, calls in steady["api"].items()},
        **{f"Kafka: {name}": calls for name, calls in steady["kafka"].items()},
        "database: statements": steady["database_transactions"],
        "database: connections": steady["database_connections"],
    }
    for name, number in rows.items():
        calls.add_row(name, f"{number:,.1f}", f"{number / count:.3f}")
    console.print(calls)


def _bar(part: float) -> str:
    return f"{'█' * min(40, round(20 * part))} {part:.0%}"


if __name__ == "__main__":
    typer.run(main)
