"""Options that commands share: each group is a dataclass, spread into a command's own options by `grouped`.

They are options of each command and not of the program, because people write them after the command's name, as
with kubectl.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import typer

from sensorlog import durations
from sensorlog_cli.errors import UsageError

DEBUG_KEY = "sensorlog_cli.debug"
"""Where a context's `meta` keeps whether tracebacks are wanted."""


class Output(StrEnum):
    """How a result is written to standard output; messages always go to standard error."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class Unit(StrEnum):
    """The units of a `ts`, as `sensorlog.timestamps.TimestampUnit` has them."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


def check_duration(text: str | None) -> str | None:
    """Return `text`; a usage error when it is no duration or none at all passes."""
    if text is None:
        return None
    try:
        positive = durations.milliseconds(text) > 0
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    if not positive:
        raise typer.BadParameter("must be longer than nothing")
    return text


def check_age(text: str | None) -> str | None:
    """Return `text`; a usage error when it is no duration. None at all passes, and so does nothing, `0s`."""
    if text is not None:
        try:
            durations.milliseconds(text)
        except ValueError as e:
            raise typer.BadParameter(str(e)) from e
    return text


def seconds(text: str) -> float:
    """Return a duration that `check_duration` has passed in seconds."""
    return durations.milliseconds(text) / 1000


def _note_debug(context: typer.Context, *, value: bool) -> bool:
    context.meta[DEBUG_KEY] = value
    return value


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how patient to be."""

    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Namespace of the pipeline. Default: that of the kubeconfig context."),
    ] = None
    context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig to use.")] = None
    kubeconfig: Annotated[
        str | None, typer.Option("--kubeconfig", help="Path of the kubeconfig. Default: as kubectl finds it.")
    ] = None
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            callback=check_duration,
            metavar="DURATION",
            help="How long one request may take, like 500ms or 2m.",
        ),
    ] = "30s"
    debug: Annotated[bool, typer.Option("--debug", callback=_note_debug, help="Show a traceback with an error.")] = (
        False
    )

    @property
    def timeout_seconds(self) -> float:
        """The patience of one request in seconds."""
        return seconds(self.timeout)


@dataclass(frozen=True)
class PipelineOptions(ClusterOptions):
    """Which pipeline of the cluster."""

    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", "-p", help="SensorLogPipeline to use. Default: the only one in the namespace."),
    ] = None
    timestamp_unit: Annotated[
        Unit | None,
        typer.Option("--timestamp-unit", help="Unit of ts. Default: the pipeline's; s where no cluster is asked."),
    ] = None


@dataclass(frozen=True)
class QueryOptions(PipelineOptions):
    """Which query service."""

    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="HOST:PORT", help="Query service to ask directly; needs no cluster."),
    ] = None
    tls: Annotated[bool, typer.Option("--tls", help="The query service speaks TLS, known by the system's CAs.")] = False
    ca_file: Annotated[
        str | None, typer.Option("--ca-file", metavar="FILE", help="TLS, and the CA that signed the service, in PEM.")
    ] = None
    server_name: Annotated[
        str,
        typer.Option(
            "--server-name",
            metavar="NAME",
            help="Name in the service's certificate. Default: that of --endpoint, else NAME-query.NAMESPACE.svc.",
        ),
    ] = ""
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="Bearer token to show; needs TLS.")
    ] = None
    max_staleness: Annotated[
        str | None,
        typer.Option(
            "--max-staleness",
            callback=check_age,
            metavar="DURATION",
            help="How old an answer may be where the service reads from a replica, like 5s; 0s is the primary alone.",
        ),
    ] = None


@dataclass(frozen=True)
class RangeOptions:
    """Which readings."""

    since: Annotated[
        str | None,
        typer.Option(
            "--since", callback=check_duration, metavar="DURATION", help="Readings of the last so long, like 10m or 7d."
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            "--from",
            metavar="TIME",
            help="Readings at or after this: ISO 8601 (UTC where it has no offset), or a ts.",
        ),
    ] = None
    end: Annotated[
        str | None, typer.Option("--end", "--to", metavar="TIME", help="Readings before this: ISO 8601, or a ts.")
    ] = None
    sensor_ids: Annotated[
        list[int] | None, typer.Option("--sensor-id", "--sensor", help="Only this sensor; may be given several times.")
    ] = None


PipelineArgument = Annotated[
    str | None, typer.Argument(metavar="PIPELINE", help="The same as --pipeline.", show_default=False)
]


def chosen(name: str | None, pipeline: str | None, argument: str) -> str | None:
    """Return the pipeline that `argument` or --pipeline names; UsageError where they name two."""
    if name and pipeline and name != pipeline:
        raise UsageError(f"{argument} says {name!r} and --pipeline says {pipeline!r}: give one of them")
    return name or pipeline


def of_pipeline(query: QueryOptions, name: str | None) -> QueryOptions:
    """Return `query` with the pipeline that the argument PIPELINE names."""
    return replace(query, pipeline=chosen(name, query.pipeline, "PIPELINE"))


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="A table for people; json (one document) or jsonl for programs.")
]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with each parameter that is a dataclass spread into one option a field.

    Typer reads a function's signature; this writes one that lists the fields, and gathers them again at the call.
    """
    parameters = inspect.signature(command).parameters
    groups: dict[str, Any] = {n: p.annotation for n, p in parameters.items() if is_dataclass(p.annotation)}

    @wraps(command)
    def spread(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    flat: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        flat += [_parameter(f) for f in fields(groups[name])] if name in groups else [parameter]
    spread.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in flat]
    )
    return spread


def _parameter(field: Field[Any]) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type)
