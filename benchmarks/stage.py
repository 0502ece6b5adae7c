"""A broker and a database of one's own, empty, on this machine, for as long as a benchmark runs.

Unlike in the tests the database is as safe as in production: fsync and synchronous commit are on. Both listen on
127.0.0.1 without Docker's port forwarding, whose copying would cost as much as a part of what is measured.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from support.containers import ContainerEngine, Spec, free_port
from support.database import Database, database_spec, database_uri
from support.kafka import KafkaBroker, broker_spec
from support.pipelines import Pipeline, PipelineOptions, make_pipeline

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "wal_compression": "off",
    "max_connections": "100",
    "timescaledb.telemetry_level": "off",
}
"""PostgreSQL's settings, the same for everyone who is measured; checkpoints are made between the rounds."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a benchmark takes place."""

    broker: KafkaBroker
    database: Database
    directory: Path

    @contextlib.contextmanager
    def pipeline(self, topics: tuple[str, str], *, index: bool = True) -> Iterator[Pipeline]:
        """Yield a pipeline with an empty schema, which is dropped afterwards, over topics that are there already."""
        options = PipelineOptions(topics=topics, create_topics=False)
        pipeline = make_pipeline(self.broker, self.database, self.directory, options)
        try:
            if not index:
                pipeline.query("DROP INDEX sensor_data_sensor_id_time_idx")
            self.database.execute("CHECKPOINT")
            yield pipeline
        finally:
            pipeline.drop()


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Stage]:
    """Start a broker and a database, and remove them afterwards."""
    engine = ContainerEngine()
    engine.remove_leftovers()
    kafka_port, database_port = free_port(), free_port()
    try:
        with (
            engine.running(_broker_spec(kafka_port)) as kafka,
            engine.running(_database_spec(database_port)) as timescaledb,
        ):
            broker = KafkaBroker(f"127.0.0.1:{kafka_port}", kafka)
            database = Database(database_uri(database_port), timescaledb)
            broker.wait_ready()
            database.wait_ready()
            yield Stage(broker, database, directory)
    finally:
        engine.close()


def _broker_spec(port: int) -> Spec:
    internal, controller = free_port(), free_port()
    listeners = {
        "KAFKA_LISTENERS": f"INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller},"
        f"HOST://127.0.0.1:{port}",
        "KAFKA_ADVERTISED_LISTENERS": f"INTERNAL://127.0.0.1:{internal},HOST://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": f"1@127.0.0.1:{controller}",
    }
    return replace(broker_spec(port, listeners), on_host=True)


def _database_spec(port: int) -> Spec:
    settings = {**SETTINGS, "port": str(port), "listen_addresses": "127.0.0.1"}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return replace(database_spec(port), command=["postgres", *words], on_host=True)


def machine(database: Database) -> dict[str, str | int]:
    """Return what the figures depend on: processor, cores, memory, versions."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ((postgres, timescaledb),) = database.execute(
        "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')"
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": str(postgres).partition(" ")[0],
        "timescaledb": str(timescaledb),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()
