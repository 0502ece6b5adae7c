"""A real TimescaleDB for tests: connections, outages."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from docker.models.containers import Container
from psycopg.rows import TupleRow

from support.containers import Outages, Spec
from support.waiting import wait_until

IMAGE = "sensorlog/timescaledb:dev"
PORT = 5432
START_SECONDS = 60
PASSWORD = "not-a-secret"  # noqa: S105 -- of a database that lives as long as the test run


@dataclass(frozen=True)
class Database(Outages):
    """One TimescaleDB of one session; the user of `uri` is a superuser."""

    uri: str
    container: Container

    @contextlib.contextmanager
    def connect(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Yield an autocommit connection."""
        with psycopg.connect(self.uri, autocommit=True, connect_timeout=3) as connection:
            yield connection

    def execute(self, statement: str, parameters: Any = None) -> list[TupleRow]:
        """Run one statement on a connection of its own and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def wait_ready(self) -> None:
        """Wait until the database answers."""
        wait_until(lambda: self.execute("SELECT 1"), deadline=START_SECONDS, what="the database to answer")

    def cut_connections(self, application_name: str) -> int:
        """Terminate the sessions of an application and return how many there were."""
        return len(
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                [application_name],
            )
        )


def database_spec(port: int) -> Spec:
    """Return a TimescaleDB that is reached at 127.0.0.1:`port`.

    fsync is off: it matters when the machine crashes, which tests do not do, and costs them time.
    """
    return Spec(
        IMAGE,
        "sensorlog-test-timescaledb",
        ports={PORT: port},
        environment={"POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "sensorlog"},
        command=["postgres", "-c", "fsync=off", "-c", "shared_buffers=256MB", "-c", "max_connections=200"],
    )


def database_uri(port: int) -> str:
    """Return where `database_spec(port)` is reached."""
    return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/sensorlog"
