"""Who takes part: a program that reads a pipeline's topic and stores its readings, and how it is started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Protocol

import psycopg
from psycopg.rows import TupleRow

from benchmarks.ingester import stored_messages
from sensorlog.pipeline import BatchConfig
from support.pipelines import Pipeline
from support.processes import ServiceProcess


class Contender(Protocol):
    """One process at a time; after `kill` or `stop` it may be started again, and goes on where it was."""

    def start(self) -> None:
        """Start the process."""

    def kill(self) -> None:
        """End the process as `kill -9` does."""

    def stop(self) -> None:
        """Let the process end in an orderly way."""

    @property
    def pid(self) -> int:
        """The process."""

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""

    @property
    def logs(self) -> str:
        """What it has written, over all its starts."""

    def written_rows(self) -> int:
        """Return how many rows are committed, doubled ones too, in a way that does not disturb a measurement."""

    def consumed_messages(self) -> int:
        """Return how many messages it will not read again."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A program with its settings, which a table can print."""

    name: str
    version: str
    settings: Mapping[str, str | int]
    contender: Callable[[Pipeline], Contender]
    """Makes one for a pipeline."""


@dataclass
class SensorLog:
    """Ingest as the operator's Deployment runs it, with default settings."""

    pipeline: Pipeline
    readings_per_message: int
    process: ServiceProcess = field(init=False)

    def __post_init__(self) -> None:
        self._connection: psycopg.Connection[TupleRow] | None = None

    def start(self) -> None:
        """Start the process."""
        log = self.pipeline.directory / "ingest.log"
        self.process = ServiceProcess("sensorlog_ingest", self.pipeline.environment, log)

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self.process.kill()

    def stop(self) -> None:
        """Let the process end in an orderly way."""
        self.process.stop()
        if self._connection:
            self._connection.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.is_running

    @property
    def logs(self) -> str:
        """What it has written, over all its starts."""
        return self.process.logs

    def written_rows(self) -> int:
        """Return how many rows are committed, going by the offsets that are committed with them."""
        if not self._connection or self._connection.closed:
            self._connection = psycopg.connect(self.pipeline.database.uri, autocommit=True)
        return stored_messages(self._connection, self.pipeline.schema) * self.readings_per_message

    def consumed_messages(self) -> int:
        """Return how many messages are stored or dead letters."""
        return int(self.pipeline.query("SELECT coalesce(sum(next_offset), 0) FROM ingest_offsets")[0][0])


def sensorlog(readings_per_message: int) -> Entrant:
    """Return SensorLog."""
    batch = BatchConfig()
    settings: dict[str, str | int] = {
        "batch.maxRows": batch.max_rows,
        "batch.maxDelay": f"{batch.max_delay_ms}ms",
        "replicas": 1,
    }
    contender = partial(SensorLog, readings_per_message=readings_per_message)
    return Entrant("SensorLog", version("sensorlog-ingest"), settings, contender)
