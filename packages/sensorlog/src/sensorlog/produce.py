"""Sends records to Kafka and says of each whether it arrived; as a program, from standard input.

`sensorlog publish` calls `produce` in its own process where it reaches the brokers itself. Elsewhere it runs
`python -m sensorlog.produce` inside the pipeline's ingest pod, which resolves the brokers' advertised names and has
the credentials mounted. The one protocol of both ends is here:

    stdin    {"topic": "logger.sensor.ts", "value": "[...]"}    one line a record; an empty line ends
    stdout   {"index": 0, "error": null}                        one line a record, in the order of delivery
             {"fatal": "..."}                                   nothing can be sent; the program ends with 1

The empty line is there because a Kubernetes exec stream before v5.channel.k8s.io cannot close its standard input.
Import this module only where confluent-kafka is installed: the ingest image and the command line.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sensorlog.credentials import CredentialsError, mounted_kafka_options
from sensorlog.pipeline import PipelineConfigError, read_pipeline_config
from sensorlog.trouble import Trouble, in_words

CONFIG = ("SENSORLOG_CONFIG", "/etc/sensorlog/pipeline/pipeline.json")
"""Variable that names the pipeline document in a service's container, and where it is without."""

KAFKA_DIR = ("SENSORLOG_KAFKA_DIR", "/etc/sensorlog/kafka")
"""Variable that names the folder of the mounted Kafka credentials, and where it is without."""

DELIVERY_TIMEOUT_SECONDS = 30.0
"""After how long an undelivered record is given up; librdkafka retries until then."""

_DEFAULTS = {
    "enable.idempotence": True,
    "log_level": 0,  # librdkafka's log lines would break into the output; each outcome says what went wrong
    "topic.metadata.propagation.max.ms": 5000,  # after how long a topic that is not there is called unknown
}


@dataclass(frozen=True, slots=True)
class Record:
    """One message to be sent: its topic and its value as text."""

    topic: str
    value: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of record number `index` (from 0): `error` says why it did not arrive, None when it did."""

    index: int
    error: str | None = None


Send = Callable[[Iterable[Record]], Iterator[Outcome]]
"""Sends records as they come and yields exactly one outcome for each, in any order."""


def produce(
    records: Iterable[Record], options: Mapping[str, object], timeout: float = DELIVERY_TIMEOUT_SECONDS
) -> Iterator[Outcome]:
    """Send `records` with librdkafka's `options`; yield what became of each as soon as it is known.

    A record that the brokers have not acknowledged within `timeout` seconds has failed.
    Raises KafkaException where the options themselves do not fit.
    """
    outcomes: deque[Outcome] = deque()
    trouble = Trouble()
    producer = Producer({**_DEFAULTS, "message.timeout.ms": int(timeout * 1000), "error_cb": trouble.note, **options})
    for index, record in enumerate(records):
        _enqueue(producer, record, partial(_report, outcomes, trouble, index))
        producer.poll(0)
        yield from _drain(outcomes)
    while len(producer):
        producer.poll(0.1)
        yield from _drain(outcomes)
    yield from _drain(outcomes)


def _explained(error: KafkaError, trouble: Trouble) -> str:
    """Return why a record was not delivered: the error itself may only say that its time was up."""
    return f"{error.str()} ({in_words(trouble.error)})" if trouble.error else str(error.str())


def _enqueue(producer: Producer, record: Record, report: Callable[[KafkaError | None, Message | None], None]) -> None:
    while True:
        try:
            producer.produce(record.topic, record.value.encode(), on_delivery=report)
        except BufferError:  # the local queue is full: deliveries make room
            producer.poll(0.1)
        except KafkaException as e:  # this record can never be sent, for instance it is too large
            report(e.args[0], None)
            return
        else:
            return


def _report(
    outcomes: deque[Outcome],
    trouble: Trouble,
    index: int,
    error: KafkaError | None,
    _message: Message | None,
) -> None:
    outcomes.append(Outcome(index, None if error is None else _explained(error, trouble)))


def _drain(outcomes: deque[Outcome]) -> Iterator[Outcome]:
    while outcomes:
        yield outcomes.popleft()


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield the records of the protocol's stdin until its empty line."""
    for line in lines:
        if not line.strip():
            return
        yield Record(**json.loads(line))


def main(stdin: IO[str] = sys.stdin, stdout: IO[str] = sys.stdout) -> int:
    """Send what stands on `stdin` to this container's Kafka; return the process's exit status."""
    try:
        config = read_pipeline_config(_path(CONFIG))
        options = mounted_kafka_options(config.kafka, _path(KAFKA_DIR))
        for outcome in produce(read_records(stdin), options):
            print(json.dumps(asdict(outcome)), file=stdout, flush=True)
    except (PipelineConfigError, CredentialsError, KafkaException) as e:
        return _fatal(stdout, str(e))
    return 0


def _path(setting: tuple[str, str]) -> Path:
    return Path(os.environ.get(*setting))


def _fatal(stdout: IO[str], message: str) -> int:
    print(json.dumps({"fatal": message}), file=stdout, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
