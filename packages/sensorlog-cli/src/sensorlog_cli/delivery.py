"""How readings get to Kafka, and what became of each message.

Kafka's clients connect to the addresses that brokers advertise (`kafka.backing.svc:9092`), whatever address they
started from. Outside the cluster those names mean nothing, so forwarding the broker's port does not help, and a
second listener would be a change of the user's Kafka. Hence two ways:

- with --bootstrap-servers this process is the producer, for people whose brokers are reachable;
- otherwise the records go through `kubectl exec`'s API into the pipeline's ingest pod, where
  `python -m sensorlog.produce` sends them: names resolve there, and the credentials are mounted there and never
  leave the cluster. It needs the right to `create` and `get` `pods/exec`, and an ingest pod that runs
  (not that it is ready: with its database away it is not, and the topic takes readings).

Guessing between the two by whether a name resolves was rejected: a name may resolve and lead nowhere.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from sensorlog.produce import Outcome, Record, Send, produce
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import CliError, UsageError
from sensorlog_cli.pipelines import Pipeline
from sensorlog_cli.readings import Batch

_IN_POD = ("python", "-m", "sensorlog.produce")


@dataclass(slots=True)
class Report:
    """What became of the messages: readings delivered, and of each failed message which readings and why."""

    messages: int = 0
    delivered: int = 0
    failed: list[tuple[Batch, str]] = field(default_factory=list)

    def note(self, batch: Batch, outcome: Outcome) -> None:
        """Count one message by its outcome."""
        if outcome.error is None:
            self.delivered += batch.count
        else:
            self.failed.append((batch, outcome.error))

    @property
    def lost(self) -> int:
        """How many readings were not delivered."""
        return sum(batch.count for batch, _ in self.failed)


def directly(bootstrap_servers: str, options: Mapping[str, str], timeout: float) -> Send:
    """Return a way to send from this process; `options` are librdkafka's."""
    return partial(produce, options={"bootstrap.servers": bootstrap_servers, **options}, timeout=timeout)


def through_cluster(cluster: Cluster, pipeline: Pipeline) -> Send:
    """Return a way to send by the ingest pod of `pipeline`."""

    def send(records: Iterable[Record]) -> Iterator[Outcome]:
        pod = cluster.ingest_pod(pipeline, ", or send directly with --bootstrap-servers")
        for line in cluster.run(pod, pipeline.namespace, _IN_POD, _as_lines(records)):
            yield _outcome(line)

    return send


def _as_lines(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        yield json.dumps(asdict(record))
    yield ""


def _outcome(line: str) -> Outcome:
    document = json.loads(line)
    if "fatal" in document:
        raise CliError(f"the ingest pod cannot send: {document['fatal']}")
    return Outcome(**document)


def deliver(batches: Iterable[Batch], send: Send, advance: Callable[[int], None]) -> Report:
    """Send `batches` and wait for the outcome of each; `advance` hears how many readings each outcome is about.

    A message of which nothing was heard, because the way broke, counts as not delivered.
    Raises what `send` raises before it has taken any message.
    """
    report = Report()
    pending: dict[int, Batch] = {}

    def records() -> Iterator[Record]:
        for index, batch in enumerate(batches):
            pending[index] = batch
            report.messages += 1
            yield batch.record

    silence = "nothing was heard of it"
    try:
        for outcome in send(records()):
            batch = pending.pop(outcome.index)
            report.note(batch, outcome)
            advance(batch.count)
    except CliError as e:
        if not report.messages:
            raise
        silence = f"it, and all after it, was cut off: {e}"
    report.failed += [(batch, silence) for batch in pending.values()]
    return report


def kafka_options(texts: Iterable[str]) -> dict[str, str]:
    """Return `KEY=VALUE` texts as librdkafka's options; UsageError names the one of another form."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--kafka-option: {text!r} is not KEY=VALUE, like security.protocol=SASL_SSL")
        options[key] = value
    return options
