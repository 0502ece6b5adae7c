"""A pipeline that is read from a streaming standby."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from support.database import ReplicatedDatabase
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS, Pipeline, PipelineOptions, make_pipeline
from support.processes import StartService
from support.query import QueryService, query_service, store
from support.waiting import wait_until


@dataclass(frozen=True)
class Replicated:
    """A pipeline whose readings are written to the primary and read from the standby, by a role that may only read."""

    pipeline: Pipeline
    pair: ReplicatedDatabase
    start: StartService

    @contextmanager
    def served(self, *, may_ask_primary: bool = False, **settings: str) -> Iterator[QueryService]:
        """Yield a query service on the standby."""
        directory = self.pipeline.directory / "primary"
        directory.mkdir(exist_ok=True)
        (directory / "uri").write_text(as_reader(self.pair.primary.uri))
        if may_ask_primary:
            settings["SENSORLOG_PRIMARY_DIR"] = str(directory)
        with query_service(self.start, self.pipeline, wait=True, **settings) as service:
            yield service

    def read_from_primary(self) -> None:
        """Let services that start from now on read from the primary."""
        self.pipeline.write_files(as_reader(self.pair.primary.uri))

    def store(self, *, ts: int = SEED_TS) -> float:
        """Store a reading on the primary; return when it was committed, in seconds since 1970."""
        store(self.pipeline, [(ts, 1, (30.0, 20.0))])
        return time.time()

    def store_caught_up(self) -> None:
        """Store a reading, and wait until the standby has everything."""
        self.store()
        self.wait_caught_up()

    def wait_caught_up(self) -> None:
        """Wait until the standby has everything."""
        [(end,)] = self.pair.primary.execute("SELECT pg_current_wal_flush_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        wait_until(
            lambda: self.pair.standby.execute(replayed) == [(True,)], deadline=20, what="the standby to catch up"
        )


def as_reader(uri: str) -> str:
    """Return `uri` for the role that may only read."""
    return make_conninfo(uri, user="reader", password="reader")  # noqa: S106 -- of a database that lives for a test


def make_replicated(
    broker: KafkaBroker, pair: ReplicatedDatabase, directory: Path, start_service: StartService
) -> Replicated:
    """Return a pipeline of unique names that has one reading, which the standby has too."""
    pipeline = make_pipeline(broker, pair.primary, directory, PipelineOptions(create_topics=False))
    pair.primary.execute(
        "DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'reader'; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    for right in (f"USAGE ON SCHEMA {pipeline.schema}", f"SELECT ON ALL TABLES IN SCHEMA {pipeline.schema}"):
        pair.primary.execute(f"GRANT {right} TO reader")
    pipeline.write_files(as_reader(pair.standby.uri))
    replica = Replicated(pipeline, pair, start_service)
    replica.store_caught_up()
    return replica
