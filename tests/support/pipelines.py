"""A pipeline without a cluster: what the operator provisions, made by the operator's own modules."""

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from sensorlog.measurements import DEFAULT_MEASUREMENTS, Measurement, names
from sensorlog.pipeline import AcceptedWindow, BatchConfig, KafkaConfig, PipelineConfig
from sensorlog.timestamps import TimestampUnit
from sensorlog_operator import connections, schema
from sensorlog_operator.plans import Refusal
from support.database import Database
from support.kafka import KafkaBroker

SEED_TS = 1_646_409_307
"""2022-03-04T15:55:07Z, the `ts` of the README's first message."""


@dataclass(frozen=True)
class PipelineOptions:
    """What a test may want different from the default pipeline."""

    measurements: tuple[Measurement, ...] = DEFAULT_MEASUREMENTS
    timestamp_unit: TimestampUnit = "s"
    partitions: int = 1
    topic_config: Mapping[str, str] | None = None
    batch: BatchConfig = field(default_factory=BatchConfig)
    window: AcceptedWindow = field(default_factory=AcceptedWindow)
    create_topics: bool = True
    create_schema: bool = True
    topics: tuple[str, str] | None = None
    """Topics of readings and of sensors that others use too; by default the pipeline has its own."""


@dataclass(frozen=True)
class Pipeline:
    """Two topics, a schema, and the files that the operator would mount into a service."""

    config: PipelineConfig
    partitions: int
    directory: Path
    broker: KafkaBroker
    database: Database

    @property
    def schema(self) -> str:
        """The pipeline's schema; a name that needs no quotes."""
        return self.config.db_schema

    @property
    def environment(self) -> dict[str, str]:
        """The settings that the operator's Deployment gives to ingest and query."""
        return {
            "SENSORLOG_CONFIG": str(self.directory / "pipeline.json"),
            "SENSORLOG_DATABASE_DIR": str(self.directory / "database"),
            "SENSORLOG_KAFKA_DIR": str(self.directory / "kafka"),
            "SENSORLOG_LOG_FORMAT": "json",
        }

    def write_files(self, database_uri: str) -> None:
        """Write pipeline.json and the mounted credentials."""
        for name in ("database", "kafka"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "pipeline.json").write_text(self.config.to_json())
        (self.directory / "database" / "uri").write_text(database_uri)

    def create_topics(self, config: Mapping[str, str] | None = None) -> None:
        """Create the topics of readings and of sensors."""
        self.broker.create_topic(self.config.kafka.readings_topic, self.partitions, config)
        self.broker.create_topic(self.config.kafka.sensors_topic)

    def provision_schema(self, uri: str = "") -> None:
        """Create the schema as the operator does; as the user of `uri` where it is given."""
        desired = schema.DesiredSchema(
            name=self.schema,
            owner=schema.Owner(uid=self.schema, pipeline=f"test/{self.config.name}", cluster="test"),
            measurements=names(self.config.measurements),
            chunk_interval=timedelta(days=1),
            live_uids=frozenset({self.schema}),
        )
        with connections.connect(uri or self.database.uri) as connection:
            plan = schema.provision(connection, desired)
        refused = [action.summary for action in plan if isinstance(action, Refusal)]
        assert not refused, refused

    def produce(self, values: Iterable[Any], **options: Any) -> None:
        """Send messages to the topic of readings, to its partitions in turn; see `KafkaBroker.produce`."""
        self.broker.produce(self.config.kafka.readings_topic, values, partitions=self.partitions, **options)

    def announce(self, values: Iterable[Any], **options: Any) -> None:
        """Send messages to the topic of sensors; see `KafkaBroker.produce`."""
        self.broker.produce(self.config.kafka.sensors_topic, values, **options)

    def query(self, statement: str, parameters: Any = None) -> list[TupleRow]:
        """Run one statement with the pipeline's schema as search_path."""
        with self.database.connect() as connection:
            connection.execute(f"SET search_path TO {self.schema}, public".encode())
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def insert_readings(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Store readings without ingest: (time, sensor_id, one value per measurement), for tests of readers."""
        statement = f"COPY {self.schema}.sensor_data FROM STDIN".encode()
        with self.database.connect() as connection, connection.cursor().copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def count(self) -> int:
        """Return how many readings are stored."""
        return int(self.query("SELECT count(*) FROM sensor_data")[0][0])

    def counts(self) -> tuple[int, int]:
        """Return how many readings are stored, and how many distinct (time, sensor_id)."""
        total, distinct = self.query(
            "SELECT count(*), count(DISTINCT (time, sensor_id)) FROM sensor_data",
        )[0]
        return int(total), int(distinct)

    def blocked_sessions(self, table: str = "sensor_data") -> list[int]:
        """Return the database's sessions that wait for a lock on a table of this pipeline."""
        waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        return [int(pid) for (pid,) in self.query(waiting, [table])]

    @contextlib.contextmanager
    def locked(self, table: str = "sensor_data") -> Iterator[None]:
        """Let nobody read or write a table of this pipeline within this block."""
        with psycopg.connect(self.database.uri) as lock:
            lock.execute(f"LOCK TABLE {self.schema}.{table} IN ACCESS EXCLUSIVE MODE".encode())
            yield

    def dead_letters(self) -> list[tuple[str, str, bytes | None]]:
        """Return reason, detail and value of each dead letter, ordered by where it stood."""
        return [
            (reason, detail, value)
            for reason, detail, value in self.query(
                "SELECT reason, detail, value FROM dead_letters ORDER BY topic, partition, message_offset"
            )
        ]

    def drop(self) -> None:
        """Drop the schema, so that a long session does not fill the database."""
        self.database.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")


def make_pipeline(broker: KafkaBroker, database: Database, directory: Path, options: PipelineOptions) -> Pipeline:
    """Return a provisioned pipeline of unique names; its files are written below `directory`."""
    name = f"t{secrets.token_hex(5)}"
    readings_topic, sensors_topic = options.topics or (f"{name}.sensor.ts", f"{name}.sensor.instance")
    config = PipelineConfig(
        namespace="test",
        name=name,
        db_schema=f"slp_test_{name}",
        kafka=KafkaConfig(
            bootstrap_servers=broker.bootstrap_servers,
            readings_topic=readings_topic,
            sensors_topic=sensors_topic,
            group_id=f"sensorlog.test.{name}",
        ),
        timestamp_unit=options.timestamp_unit,
        measurements=options.measurements,
        batch=options.batch,
        accepted_window=options.window,
    )
    pipeline = Pipeline(config, options.partitions, directory / name, broker, database)
    pipeline.write_files(database.uri)
    if options.create_topics:
        pipeline.create_topics(options.topic_config)
    if options.create_schema:
        pipeline.provision_schema()
    return pipeline


MakePipeline = Callable[..., Pipeline]
"""What the fixture make_pipeline is: its keywords are the fields of PipelineOptions."""
