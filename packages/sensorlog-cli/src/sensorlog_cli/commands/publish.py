"""The command that sends readings."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sensorlog.produce import Record, Send
from sensorlog.timestamps import TimestampUnit
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.delivery import Report, deliver, directly, kafka_options, through_cluster
from sensorlog_cli.errors import ExitStatus, UsageError
from sensorlog_cli.host import CPU, TEMPERATURE, Host, count_of_ticks, ticks
from sensorlog_cli.options import Output, OutputOption, PipelineOptions, check_duration, grouped, seconds
from sensorlog_cli.output import counted, progress, results, say, write_json
from sensorlog_cli.readings import Batch, Placed, Rules, batches, parse

_SHOWN_FAILURES = 20
"""A broker that is away fails every message; the first few say all there is to know."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the readings come from."""

    file: Annotated[
        str | None, typer.Argument(metavar="FILE|-", help="JSON array, object or JSON lines; - is standard input.")
    ] = None
    data: Annotated[str | None, typer.Option("--data", help="The readings themselves, as JSON.")] = None
    from_host: Annotated[
        bool, typer.Option("--from-host", help="This machine's load per core and its temperature sensors.")
    ] = False
    duration: Annotated[
        str,
        typer.Option("--duration", callback=check_duration, metavar="DURATION", help="With --from-host: for how long."),
    ] = "60s"
    interval: Annotated[
        str,
        typer.Option(
            "--interval", callback=check_duration, metavar="DURATION", help="With --from-host: a reading how often."
        ),
    ] = "1s"
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Send fields that the pipeline does not declare; it ignores them.")
    ] = False


@dataclass(frozen=True)
class KafkaOptions:
    """Which Kafka, where it is not asked of the cluster."""

    bootstrap_servers: Annotated[
        str | None,
        typer.Option("--bootstrap-servers", metavar="HOST:PORT,...", help="Send from here; needs no cluster."),
    ] = None
    kafka_option: Annotated[
        list[str] | None,
        typer.Option("--kafka-option", "-X", metavar="KEY=VALUE", help="With --bootstrap-servers: for librdkafka."),
    ] = None
    topic: Annotated[str | None, typer.Option("--topic", help="Topic of readings. Default: the pipeline's.")] = None
    sensors_topic: Annotated[
        str | None, typer.Option("--sensors-topic", help="Topic of sensors. Default: the pipeline's.")
    ] = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where readings go, and what they must be like there."""

    send: Send
    topic: str
    sensors_topic: str
    rules: Rules


@grouped
def publish(
    source: SourceOptions,
    where: PipelineOptions,
    kafka: KafkaOptions,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send readings to a pipeline and wait until Kafka has them.

    Without --bootstrap-servers they go through the pipeline's ingest pod. All are checked before any is sent.
    Exits 1 when any was not delivered.
    """
    _check(source, kafka)
    text = None if source.from_host else _text(source)
    destination = _destination(source, where, kafka)
    if text is None:
        total, content = _from_host(source, destination)
    else:
        total, content = _from_text(text, source.file or "--data", destination)
    with progress("publishing", total) as advance:
        report = deliver(content, destination.send, advance)
    _tell(report, destination.topic, output)
    if report.failed:
        raise typer.Exit(ExitStatus.FAILED)


def _check(source: SourceOptions, kafka: KafkaOptions) -> None:
    given = [source.file is not None, source.data is not None, source.from_host]
    if sum(given) != 1:
        raise UsageError("say what to publish with one of: FILE, - for standard input, --data, --from-host")
    if kafka.kafka_option and not kafka.bootstrap_servers:
        raise UsageError("--kafka-option goes with --bootstrap-servers; in the cluster the pipeline's own are used")


def _text(source: SourceOptions) -> str:
    if source.data is not None:
        return source.data
    if source.file == "-":
        return sys.stdin.read()
    path = Path(source.file or "")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 text: byte {e.start}") from e


def _destination(source: SourceOptions, where: PipelineOptions, kafka: KafkaOptions) -> Destination:
    asked: TimestampUnit | None = where.timestamp_unit.value if where.timestamp_unit else None
    if kafka.bootstrap_servers is not None:
        options = kafka_options(kafka.kafka_option or ())
        return Destination(
            send=directly(kafka.bootstrap_servers, options, where.timeout_seconds),
            topic=kafka.topic or "logger.sensor.ts",
            sensors_topic=kafka.sensors_topic or "logger.sensor.instance",
            rules=Rules(asked or "s"),
        )
    cluster = Cluster(where)
    pipeline = cluster.pipeline(where.pipeline)
    return Destination(
        send=through_cluster(cluster, pipeline),
        topic=kafka.topic or pipeline.readings_topic,
        sensors_topic=kafka.sensors_topic or pipeline.sensors_topic,
        rules=Rules(asked or pipeline.timestamp_unit, pipeline.measurements, source.allow_unknown),
    )


def _from_text(text: str, name: str, destination: Destination) -> tuple[int, Iterable[Batch]]:
    placed = parse(text, "standard input" if name == "-" else name)
    for each in placed:
        destination.rules.check(each)
    return len(placed), batches(placed, destination.topic)


def _from_host(source: SourceOptions, destination: Destination) -> tuple[int, Iterable[Batch]]:
    declared = destination.rules.measurements
    host = Host((CPU, TEMPERATURE) if declared is None else [m.name for m in declared], destination.rules.unit)
    duration, interval = seconds(source.duration), seconds(source.interval)
    say(f"reading {len(host.sensors)} sensors of this machine every {source.interval} for {source.duration}")
    total = len(host.sensors) * count_of_ticks(duration, interval)
    return total, _host_batches(host, destination, ticks(duration, interval))


def _host_batches(host: Host, destination: Destination, moments: Iterable[int]) -> Iterator[Batch]:
    """Yield the announcement of each sensor, then the readings of each moment."""
    for sensor in host.sensors:
        record = Record(destination.sensors_topic, json.dumps(sensor.announcement()))
        yield Batch(record, f"sensor {sensor.id}", f"sensor {sensor.id}", 0)
    for moment in moments:
        placed = [Placed(f"moment {moment}", reading) for reading in host.read()]
        yield from batches([each for each in placed if _fits(each, destination.rules)], destination.topic)


def _fits(placed: Placed, rules: Rules) -> bool:
    """Return whether a reading of this machine is in range; a sensor that talks nonsense must not stop the rest."""
    problems = list(rules.problems(placed.reading))
    for problem in problems:
        say(f"left out: sensor {placed.reading['sensor_id']}: {problem}")
    return not problems


def _tell(report: Report, topic: str, output: Output) -> None:
    for batch, error in report.failed[:_SHOWN_FAILURES]:
        say(f"not delivered: {batch}: {error}")
    if len(report.failed) > _SHOWN_FAILURES:
        say(f"not delivered: {len(report.failed) - _SHOWN_FAILURES} more messages")
    if output is Output.TABLE:
        lost = f", {report.lost} not delivered" if report.failed else ""
        delivered, sent = counted(report.delivered, "reading"), counted(report.messages, "message")
        results().print(f"delivered {delivered} in {sent} to {topic}{lost}")
        return
    failed = [{"readings": str(batch), "count": batch.count, "error": error} for batch, error in report.failed]
    write_json({"topic": topic, "messages": report.messages, "delivered": report.delivered, "failed": failed})
