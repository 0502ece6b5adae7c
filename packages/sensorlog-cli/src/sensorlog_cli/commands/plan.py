"""The command that shows what would be done before it is done, and approves it."""

from typing import Annotated

import typer

from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import CliError, ExitStatus, UsageError
from sensorlog_cli.options import ClusterOptions, Output, OutputOption, chosen, grouped
from sensorlog_cli.output import results, say, write_json, write_line
from sensorlog_cli.plans import APPROVE, Plan, page
from sensorlog_cli.preview import plans_of


@grouped
def plan(
    where: ClusterOptions,
    *,
    name: Annotated[str | None, typer.Argument(help="Pipeline whose plan to show.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="The same as NAME.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Show what applying FILE would do; - is standard input."),
    ] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve the plan once it is shown.")] = False,
    plan_hash: Annotated[
        str | None, typer.Option("--hash", metavar="HASH", help="With --approve: only if it is still this plan.")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option("--operator-namespace", metavar="NAME", help="With -f: where the operator runs.")
    ] = "sensorlog",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what the operator would do to a pipeline and waits to be allowed, or what applying a file would do.

    Exits 0 when nothing is to be done (or it was approved just now), 4 when something is, 1 to 3 as other commands.
    """
    wanted = chosen(name, pipeline, "NAME")
    _check(wanted, file, plan_hash, approve=approve)
    cluster = Cluster(where)
    if file is not None:
        plans = plans_of(cluster, file, operator_namespace)
    else:
        plans = [Plan.of_resource(cluster.resource(wanted or cluster.pipeline(None).name))]
    _write(plans, output, single=file is None)
    if approve:
        _approve(cluster, plans[0], plan_hash)
    elif any(each.to_do for each in plans):
        raise typer.Exit(ExitStatus.PENDING)


def _check(name: str | None, file: str | None, plan_hash: str | None, *, approve: bool) -> None:
    if file is not None and (name or approve):
        raise UsageError("-f shows what a file would do; a NAME or --approve is about what waits already")
    if plan_hash and not approve:
        raise UsageError("--hash goes with --approve")


def _approve(cluster: Cluster, plan: Plan, expected: str | None) -> None:
    if expected and plan.hash != expected:
        raise CliError(f"the plan is {plan.hash or 'none'} by now, not {expected}: look at it again")
    if not plan.waits:
        say("nothing waits for approval")
        return
    cluster.annotate(plan.pipeline.partition("/")[2], APPROVE, plan.hash)
    say(f"approved plan {plan.hash}")


def _write(plans: list[Plan], output: Output, *, single: bool) -> None:
    documents = [each.document() for each in plans]
    if output is Output.TABLE:
        for each in plans:
            results().print(page(each), soft_wrap=True)
    elif output is Output.JSON:
        write_json(documents[0] if single else documents)
    else:
        for document in documents:
            write_line(document)
