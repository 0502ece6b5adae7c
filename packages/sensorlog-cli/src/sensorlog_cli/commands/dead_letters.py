"""Commands on dead letters: list, show, replay, discard."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from sensorlog.letters import Format, Request, Selection
from sensorlog_cli import letter_page, letters
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import CliError, ExitStatus, UnreachableError, UsageError
from sensorlog_cli.options import ClusterOptions, Output, OutputOption, check_duration, grouped, seconds
from sensorlog_cli.output import counted, messages, progress, results, say, write_json, write_line

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what a pipeline could not store, and store or discard it. ID is TOPIC/PARTITION/OFFSET, as list shows.",
)

_SHOWN_RETURNED = 20
"""Letters that are still rejected mostly have the same reason; -o json has all."""

PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="SensorLogPipeline whose letters are meant.")]
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Only these letters.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AllOption = Annotated[bool, typer.Option("--all", help="All letters of the pipeline.")]


@dataclass(frozen=True)
class FilterOptions:
    """Which dead letters, where they are not named one by one."""

    reason: Annotated[
        str | None, typer.Option("--reason", help="Only letters of this reason; docs/dead-letters.md lists them.")
    ] = None
    topic: Annotated[str | None, typer.Option("--topic", help="Only letters of this topic.")] = None
    since: Annotated[
        str | None,
        typer.Option(
            "--since", callback=check_duration, metavar="DURATION", help="Only letters of the last so long, like 1h."
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Whether any of them says something."""
        return any((self.reason, self.topic, self.since))

    def selection(self) -> Selection:
        """Return the letters that fit."""
        newer_than = None if self.since is None else seconds(self.since)
        return Selection(reason=self.reason, topic=self.topic, newer_than=newer_than)


@dataclass(frozen=True)
class ReplacementOptions:
    """What is replayed in the place of a letter's own value."""

    value: Annotated[
        str | None,
        typer.Option(
            "--value",
            metavar="FILE|-",
            help="Corrected value for the one ID: all of it is stored, or the letter stays as it is.",
        ),
    ] = None
    protobuf: Annotated[bool, typer.Option("--protobuf", help="The corrected value is a SensorDataList, not JSON.")] = (
        False
    )

    def read(self) -> tuple[Format | None, bytes]:
        """Return the corrected value and its format; None where there is none. UsageError when it cannot be read."""
        if self.value is None:
            if self.protobuf:
                raise UsageError("--protobuf says what --value is: give both")
            return None, b""
        written: Format = "protobuf" if self.protobuf else "json"
        if self.value == "-":
            return written, sys.stdin.buffer.read()
        try:
            return written, Path(self.value).read_bytes()
        except OSError as e:
            raise UsageError(f"cannot read {self.value}: {e.strerror}") from e


@dataclass(frozen=True, slots=True)
class Meant:
    """The letters that a command is about, and how many there were when they were counted."""

    selection: Selection
    count: int


@app.command("list")
@grouped
def list_(
    where: ClusterOptions,
    fitting: FilterOptions,
    *,
    pipeline: PipelineArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many letters.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """List dead letters, the newest first, and count all by reason.

    JSON is one object with the counts and the letters; jsonl is the letters alone.
    """
    summary, envelopes = letters.listed(_ask(where, pipeline), fitting.selection(), limit)
    if output is Output.JSON:
        write_json(letter_page.list_document(summary, envelopes))
    elif output is Output.JSONL:
        for envelope in envelopes:
            write_line(letter_page.row(envelope))
    elif envelopes:
        results().print(letter_page.list_page(summary, envelopes))
    else:
        say("no dead letters")
    if summary.count > len(envelopes):
        say(f"stopped at {counted(len(envelopes), 'letter')}, there are {summary.count}: --limit N")


@app.command()
@grouped
def show(
    where: ClusterOptions,
    *,
    pipeline: PipelineArgument,
    letter: Annotated[str, typer.Argument(metavar="ID", help="TOPIC/PARTITION/OFFSET, as list shows it.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="The value alone, byte for byte: correct it for replay --value.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show all of one dead letter: reason, detail, key, headers, value. Exits 3 when it is not there."""
    (wanted,) = letters.ids_of([letter])
    if raw and output is not Output.TABLE:
        raise UsageError("--raw writes bytes: it goes without --output")
    found = letters.shown(_ask(where, pipeline), wanted)
    if raw:
        sys.stdout.buffer.write(found.value or b"")
        sys.stdout.buffer.flush()
    elif output is Output.TABLE:
        results().print(letter_page.page(found), soft_wrap=True)
    else:
        write = write_json if output is Output.JSON else write_line
        write(letter_page.document(found))


@app.command()
@grouped
def replay(
    where: ClusterOptions,
    fitting: FilterOptions,
    corrected: ReplacementOptions,
    *,
    pipeline: PipelineArgument,
    ids: IdsArgument = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Store dead letters that are right by now, each exactly once; what is still wrong stays a dead letter.

    Right by the pipeline's present limits and measurements, without going through Kafka. It may be repeated, also
    after it was cut off. Exits 0 when all landed, 1 when any is still rejected, 3 when an ID is not there.
    """
    written, value = corrected.read()
    if written is not None and len(ids or ()) != 1:
        raise UsageError("--value takes the place of one letter's value: name exactly one ID")
    selection = _selection(ids or (), fitting, everything=everything)
    ask = _ask(where, pipeline)
    meant = _count(ask, selection)
    if not _narrowed(selection) and not (everything or yes or dry_run):
        _confirm(f"replay all {counted(meant.count, 'dead letter')} of {pipeline}?", "--all")
    request = Request(action="replay", selection=meant.selection, dry_run=dry_run, replacement=written)
    with progress("replaying", meant.count) as advance:
        report = letters.changed(ask, request, value, advance)
    _tell_returned(report, kept=written is not None)
    if output is Output.TABLE:
        results().print(letter_page.replay_table(report, dry_run=dry_run))
    _finish(report, output, dry_run=dry_run)


@app.command()
@grouped
def discard(
    where: ClusterOptions,
    fitting: FilterOptions,
    *,
    pipeline: PipelineArgument,
    ids: IdsArgument = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete dead letters for ever; asks first. Exits 3 when an ID is not there."""
    selection = _selection(ids or (), fitting, everything=everything)
    if not _narrowed(selection) and not everything:
        raise UsageError("say which to discard: IDs, --reason, --topic, --since, or --all")
    ask = _ask(where, pipeline)
    meant = _count(ask, selection)
    if not (yes or dry_run):
        _confirm(f"discard {counted(meant.count, 'dead letter')} of {pipeline} for ever?", "--yes")
    request = Request(action="discard", selection=meant.selection, dry_run=dry_run)
    with progress("discarding", meant.count) as advance:
        report = letters.changed(ask, request, b"", advance)
    if output is Output.TABLE:
        done = "would be discarded" if dry_run else "discarded"
        results().print(f"{counted(report.progress.letters, 'dead letter')} {done}")
    _finish(report, output, dry_run=dry_run)


def _ask(where: ClusterOptions, name: str) -> letters.Ask:
    cluster = Cluster(where)
    return letters.through_cluster(cluster, cluster.pipeline(name))


def _selection(ids: Sequence[str], fitting: FilterOptions, *, everything: bool) -> Selection:
    if sum((bool(ids), fitting.given, everything)) > 1:
        raise UsageError("IDs, --all, and --reason, --topic, --since each say which letters: give one of the three")
    return Selection(ids=letters.ids_of(ids)) if ids else fitting.selection()


def _narrowed(selection: Selection) -> bool:
    return selection != Selection()


def _count(ask: letters.Ask, selection: Selection) -> Meant:
    """Count the letters that are meant, so that those that arrive later are not: nobody has seen them."""
    if selection.ids:
        return Meant(selection, len(selection.ids))
    summary, _ = letters.listed(ask, selection, limit=1)
    if summary.reasons:
        messages().print(letter_page.reasons_table(summary))
    return Meant(selection.model_copy(update={"until": summary.as_of}), summary.count)


def _confirm(question: str, otherwise: Literal["--all", "--yes"]) -> None:
    """Return when the person says yes; UsageError where nobody is there to say so, CliError when they say no."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        raise UsageError(f"nobody answered; {otherwise} says yes") from None
    if not agreed:
        raise CliError("nothing was changed")


def _tell_returned(report: letters.Report, *, kept: bool) -> None:
    for each in report.returned[:_SHOWN_RETURNED]:
        say(f"still rejected: {each.id}: {each.detail}")
    if len(report.returned) > _SHOWN_RETURNED:
        say(f"still rejected: {counted(len(report.returned) - _SHOWN_RETURNED, 'more letter')}")
    if report.returned and kept:
        say("the corrected value is not right yet: nothing was changed")


def _finish(report: letters.Report, output: Output, *, dry_run: bool) -> None:
    """Write the report for programs, and end with the status that it deserves."""
    if output is not Output.TABLE:
        write = write_json if output is Output.JSON else write_line
        write(letter_page.report_document(report, dry_run=dry_run))
    if report.progress.missing:
        say(letters.missing(report.progress.missing))
    if report.returned:
        raise typer.Exit(ExitStatus.FAILED)
    if report.progress.missing:
        raise typer.Exit(UnreachableError.status)
