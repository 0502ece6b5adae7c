"""The command that tells a tired person what is wrong."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from sensorlog_cli.cluster import Cluster, Object
from sensorlog_cli.errors import ExitStatus, UnreachableError, UsageError
from sensorlog_cli.options import ClusterOptions, Output, OutputOption, chosen, grouped
from sensorlog_cli.output import results, write_json, write_line
from sensorlog_cli.status import Status, status_of
from sensorlog_cli.status_page import document, page, summary

_REFRESH_SECONDS = 2.0


@grouped
def status(
    where: ClusterOptions,
    *,
    name: Annotated[str | None, typer.Argument(help="Pipeline. Default: all of the namespace.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="The same as NAME.")] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Pipelines of all namespaces.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every 2 s until interrupted.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say on one page how a pipeline is, and what to do when it is not well.

    Several pipelines get a line each. Exits 0 when all are ready, 1 when one is not, 3 when there is none.
    JSON is one object where a NAME is given, else an array.
    """
    wanted = chosen(name, pipeline, "NAME")
    if wanted and everywhere:
        raise UsageError("a NAME is in one namespace: give it with -n, or -A without a NAME")
    if watch and output is not Output.TABLE:
        raise UsageError("--watch is for people: it goes with --output table only")
    cluster = Cluster(where)
    statuses = (
        _watch(cluster, wanted, everywhere=everywhere) if watch else _look(cluster, wanted, everywhere=everywhere)
    )
    if not watch:
        _write(statuses, output, single=wanted is not None)
    if not all(each.ready for each in statuses):
        raise typer.Exit(ExitStatus.FAILED)


def _look(cluster: Cluster, name: str | None, *, everywhere: bool) -> list[Status]:
    """Return the status of the pipelines that are meant; UnreachableError when there is none."""
    resources = [cluster.resource(name)] if name else cluster.resources(everywhere=everywhere)
    if not resources:
        place = "this cluster" if everywhere else f"namespace {cluster.namespace!r}"
        raise UnreachableError(f"no SensorLogPipeline in {place}; create one, or look elsewhere with -n or -A")
    return [_status(cluster, resource) for resource in resources]


def _status(cluster: Cluster, resource: Object) -> Status:
    name, namespace = resource["metadata"]["name"], resource["metadata"]["namespace"]
    return status_of(resource, cluster.pods(namespace, name), cluster.events(namespace), datetime.now(UTC))


def _watch(cluster: Cluster, name: str | None, *, everywhere: bool) -> list[Status]:
    """Show the status anew until interrupted; return what was seen last."""
    statuses = _look(cluster, name, everywhere=everywhere)
    try:
        with Live(_shown(statuses), console=results(), screen=False, auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                statuses = _look(cluster, name, everywhere=everywhere)
                live.update(_shown(statuses), refresh=True)
    except KeyboardInterrupt:
        return statuses


def _shown(statuses: Sequence[Status]) -> RenderableType:
    return page(statuses[0]) if len(statuses) == 1 else summary(statuses)


def _write(statuses: Sequence[Status], output: Output, *, single: bool) -> None:
    documents = [document(each) for each in statuses]
    if output is Output.TABLE:
        results().print(_shown(statuses))
    elif output is Output.JSON:
        write_json(documents[0] if single else documents)
    else:
        for each in documents:
            write_line(each)
