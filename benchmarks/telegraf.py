"""Telegraf as a contender: its configuration, tuned to its best, and its process."""

import re
import shutil
import signal
import subprocess
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from string import Template
from typing import Literal

from confluent_kafka import ConsumerGroupTopicPartitions

from benchmarks.contenders import Entrant
from support.pipelines import Pipeline

STOP_SECONDS = 30
ANSWER_SECONDS = 20

TEMPLATES = Path(__file__).with_name("telegraf")

Parser = Literal["json_v2", "json"]
"""json_v2 keeps a sensor_id's 64 bits; json, which is older and faster, makes a double of every number."""

WROTE = re.compile(rb"Wrote batch of (\d+) metrics")


class TelegrafMissingError(Exception):
    """There is no Telegraf to run."""


@dataclass(frozen=True, slots=True)
class TelegrafSettings:
    """What a person who runs Telegraf tunes; see CANDIDATES and docs/benchmarks.md."""

    parser: Parser = "json_v2"
    metric_batch_size: int = 50_000
    """Rows of one COPY; Telegraf's default is 1,000."""

    in_flight_rows: int = 200_000
    """Rows that may be read and not yet stored: `max_undelivered_messages` times the readings of a message."""

    metric_buffer_limit: int = 400_000
    """Rows that are kept while the database is away. More than what is in flight: what does not fit is dropped."""

    flush_interval: str = "1s"
    kafka_version: str = "3.6.0"
    max_processing_time: str = "10s"
    consumer_fetch_default: str = "10MB"

    def small_buffer(self) -> "TelegrafSettings":
        """Return the same with a buffer that holds half of what is in flight, which is easily overlooked."""
        return replace(self, metric_buffer_limit=self.in_flight_rows // 2)

    def max_undelivered_messages(self, readings_per_message: int) -> int:
        """Return how many messages hold the rows in flight."""
        return self.in_flight_rows // readings_per_message

    def configuration(self, pipeline: Pipeline, readings_per_message: int) -> str:
        """Return Telegraf's configuration for the topic and the table of a pipeline."""
        measurements = [measurement.name for measurement in pipeline.config.measurements]
        types = {"sensor_id": "int", **dict.fromkeys(measurements, "float")}
        keys = {
            "table": "sensor_data",
            "included_keys": ", ".join(f'"{name}"' for name in types),
            "field_types": "\n        ".join(f'{name} = "{kind}"' for name, kind in types.items()),
        }
        return _template("telegraf").substitute(
            parser=_template(f"parser-{self.parser}").substitute(keys),
            brokers=pipeline.broker.bootstrap_servers,
            topic=pipeline.config.kafka.readings_topic,
            consumer_group=pipeline.config.kafka.group_id,
            connection=f"{pipeline.database.uri}?sslmode=disable",
            schema=pipeline.schema,
            metric_batch_size=self.metric_batch_size,
            metric_buffer_limit=self.metric_buffer_limit,
            max_undelivered_messages=self.max_undelivered_messages(readings_per_message),
            flush_interval=self.flush_interval,
            kafka_version=self.kafka_version,
            max_processing_time=self.max_processing_time,
            consumer_fetch_default=self.consumer_fetch_default,
        )


def _template(name: str) -> Template:
    return Template((TEMPLATES / f"{name}.conf").read_text(encoding="utf-8"))


CANDIDATES = (
    TelegrafSettings(metric_batch_size=10_000, in_flight_rows=100_000, metric_buffer_limit=200_000),
    TelegrafSettings(metric_batch_size=20_000),
    TelegrafSettings(metric_batch_size=50_000),
    TelegrafSettings(metric_batch_size=100_000, in_flight_rows=400_000, metric_buffer_limit=800_000),
)
"""What is tried before the comparison, for each size of messages: the fastest of them is compared."""


@dataclass
class Telegraf:
    """One Telegraf that stores the readings of a pipeline's topic in its table."""

    pipeline: Pipeline
    readings_per_message: int
    settings: TelegrafSettings
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.pipeline.directory / "telegraf.log"
        self._configuration = self.pipeline.directory / "telegraf.conf"
        self._configuration.write_text(
            self.settings.configuration(self.pipeline, self.readings_per_message), encoding="utf-8"
        )
        self._read_bytes = 0
        self._rows = 0

    def start(self) -> None:
        """Start the process."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [executable(), "--strict-env-handling", "--config", self._configuration],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Let the process end in an orderly way."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def logs(self) -> str:
        """Everything it has written, over all its starts."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def written_rows(self) -> int:
        """Return how many rows it says it has written, doubled ones too; costs the database nothing."""
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            lines, newline, _ = log.read().rpartition(b"\n")
        self._read_bytes += len(lines) + len(newline)
        self._rows += sum(int(rows) for rows in WROTE.findall(lines))
        return self._rows

    def consumed_messages(self) -> int:
        """Return how many messages its consumer group has committed."""
        group = self.pipeline.config.kafka.group_id
        admin = self.pipeline.broker.admin()  # a client that is gone never answers
        answers = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        return sum(max(partition.offset, 0) for partition in answers[group].result(ANSWER_SECONDS).topic_partitions)


def executable() -> str:
    """Return where Telegraf is; raises TelegrafMissingError when it is nowhere."""
    found = shutil.which("telegraf")
    if found is None:
        raise TelegrafMissingError("no telegraf on PATH: `make bench-peers` builds it (benchmarks/telegraf/build.sh)")
    return found


def version() -> str:
    """Return the version that the program tells."""
    run = subprocess.run([executable(), "--version"], check=True, capture_output=True, text=True)
    return run.stdout.split()[1]


def telegraf(settings: TelegrafSettings, readings_per_message: int, note: str = "") -> Entrant:
    """Return Telegraf with these settings; tables name it by its parser, and by a note."""
    name = ", ".join(word for word in ("Telegraf", settings.parser, note) if word)
    shown = asdict(settings) | {"max_undelivered_messages": settings.max_undelivered_messages(readings_per_message)}
    contender = partial(Telegraf, readings_per_message=readings_per_message, settings=settings)
    return Entrant(name, version(), shown, contender)
