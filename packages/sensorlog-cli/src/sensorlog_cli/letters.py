"""Dead letters of a pipeline, by way of its ingest pod.

They are in the pipeline's database, whose credentials never leave the cluster, and only ingest's decoder knows what
is right by now. So `python -m sensorlog_ingest.letters` does the work in the ingest pod, reached as `publish` reaches
it (see `delivery`); here is the client of its protocol, `sensorlog.letters`.
"""

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sensorlog.letters import (
    Answer,
    Contents,
    Envelope,
    Failed,
    LetterId,
    Piece,
    Progress,
    Refused,
    Request,
    Returned,
    Selection,
    Summary,
    join,
    parse_id,
    read_answer,
    request_lines,
)
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import CliError, UnreachableError, UsageError
from sensorlog_cli.pipelines import Pipeline

_IN_POD = ("python", "-m", "sensorlog_ingest.letters")

Ask = Callable[[Request, bytes], Iterator[Answer]]
"""Has a request, with the replacement that belongs to it, carried out, and yields the answers as they come."""


@dataclass(frozen=True, slots=True)
class Letter:
    """All of a dead letter."""

    contents: Contents
    value: bytes | None

    @property
    def envelope(self) -> Envelope:
        """Return what `list` says of it."""
        return self.contents.envelope

    @property
    def key(self) -> bytes | None:
        """Return the message's key."""
        return None if self.contents.key is None else b64decode(self.contents.key)


@dataclass(slots=True)
class Report:
    """What was done: the last progress, and the letters that went back."""

    progress: Progress = field(default_factory=Progress)
    returned: list[Returned] = field(default_factory=list)


def through_cluster(cluster: Cluster, pipeline: Pipeline) -> Ask:
    """Return a way to ask the ingest pod of `pipeline`; UnreachableError when none is ready."""
    pod = cluster.ingest_pod(pipeline)

    def ask(request: Request, replacement: bytes = b"") -> Iterator[Answer]:
        return answers(cluster.run(pod, pipeline.namespace, _IN_POD, request_lines(request, replacement)))

    return ask


def answers(lines: Iterable[str]) -> Iterator[Answer]:
    """Yield the answers that stand on `lines`.

    Raises UsageError where the request was refused, CliError where it failed or an older ingest does not know it.
    """
    try:
        for line in lines:
            yield _answer(line)
    except CliError as e:
        if "No module named" in str(e):
            raise CliError("the pipeline's ingest does not know dead-letters yet; upgrade the sensorlog chart") from e
        raise
    except ValueError as e:  # a line that is no answer: another version of the protocol
        raise CliError(
            "the pipeline's ingest answers as another version does; upgrade this program or the chart"
        ) from e


def _answer(line: str) -> Answer:
    answer = read_answer(line)
    if isinstance(answer, Refused):
        raise UsageError(answer.message)
    if isinstance(answer, Failed):
        raise CliError(answer.message)
    return answer


def listed(ask: Ask, selection: Selection, limit: int) -> tuple[Summary, list[Envelope]]:
    """Return what there is of the letters that are meant, and the newest `limit` of them."""
    summary, *envelopes = ask(Request(action="list", selection=selection, limit=limit), b"")
    if not isinstance(summary, Summary):
        raise TypeError(f"the first answer is no summary but {summary!r}")
    return summary, [each for each in envelopes if isinstance(each, Envelope)]


def shown(ask: Ask, letter: LetterId) -> Letter:
    """Return one letter; UnreachableError where there is none."""
    contents, *rest = ask(Request(action="show", selection=Selection(ids=(letter,))), b"")
    if not isinstance(contents, Contents):
        raise UnreachableError(missing((letter,)))
    value = join(each.base64 for each in rest if isinstance(each, Piece))
    return Letter(contents, None if contents.envelope.value_bytes is None else value)


def changed(ask: Ask, request: Request, replacement: bytes, advance: Callable[[int], None]) -> Report:
    """Replay or discard; `advance` hears how many letters each transaction took.

    Raises what `ask` raises, with what was done before: each transaction is whole, and the rest may be asked again.
    """
    report = Report()
    try:
        for answer in ask(request, replacement):
            if isinstance(answer, Returned):
                report.returned.append(answer)
            elif isinstance(answer, Progress):
                advance(answer.letters - report.progress.letters)
                report.progress = answer
    except UsageError:
        raise
    except CliError as e:
        done = report.progress.letters
        raise type(e)(f"{e}; {done} dead letters were done before that; repeat the command, it doubles nothing") from e
    return report


def missing(ids: Iterable[LetterId]) -> str:
    """Return what to say of letters that are not there."""
    named = ", ".join(map(str, ids))
    return f"no dead letter {named}: replayed or discarded before, or never there; `sensorlog dead-letters list` says"


def ids_of(texts: Iterable[str]) -> tuple[LetterId, ...]:
    """Return the ids that `texts` say, each once; UsageError names the one of another form."""
    try:
        return tuple(dict.fromkeys(parse_id(text) for text in texts))
    except ValueError as e:
        raise UsageError(f"ID: {e}") from e
