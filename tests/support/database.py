"""A real TimescaleDB for tests: connections, outages, a disk that is full, a standby that takes over."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from docker.models.containers import Container
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from support.containers import ContainerEngine, Outages, Spec, free_port
from support.waiting import wait_until

IMAGE = "sensorlog/timescaledb:dev"
PORT = 5432
START_SECONDS = 60
PASSWORD = "not-a-secret"  # noqa: S105 -- of a database that lives as long as the test run

SMALL_DISK = "/small"
SMALL_DISK_MB = 48
"""A file system in memory for one tablespace that a test may fill: the rest of the database keeps its disk."""

SETTINGS = ["-c", "fsync=off", "-c", "shared_buffers=256MB", "-c", "max_connections=200"]
"""fsync is off: it matters when the machine crashes, which tests do not do, and costs them time."""


@dataclass(frozen=True)
class SmallDisk:
    """A tablespace on a disk that a test may fill."""

    tablespace: str
    container: Container

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte free within this block."""
        _execute(self.container, f"cat /dev/zero >{SMALL_DISK}/ballast || true")
        try:
            yield
        finally:
            _execute(self.container, f"rm {SMALL_DISK}/ballast")


@dataclass(frozen=True)
class Database(Outages):
    """One TimescaleDB of one session; the user of `uri` is a superuser."""

    uri: str
    container: Container

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that it is reached at."""
        return int(str(conninfo_to_dict(self.uri)["port"]))

    def uri_at(self, host: str, port: int) -> str:
        """Return the uri of this database where it is reached another way."""
        return make_conninfo(self.uri, host=host, port=port)

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

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[SmallDisk]:
        """Yield an empty tablespace of SMALL_DISK_MB; whatever is in it must be dropped within this block."""
        name = f"small_{secrets.token_hex(4)}"
        _execute(self.container, f"install --directory --owner=postgres {SMALL_DISK}/{name}")
        self.execute(f"CREATE TABLESPACE {name} LOCATION '{SMALL_DISK}/{name}'")
        try:
            yield SmallDisk(name, self.container)
        finally:
            self.execute(f"DROP TABLESPACE {name}")
            self.execute("CHECKPOINT")  # recovery must not look for a folder that a restart has emptied


@dataclass(frozen=True)
class ReplicatedDatabase:
    """A primary and its streaming standby."""

    primary: Database
    standby: Database

    @property
    def writable(self) -> Database:
        """Whichever of them takes writes; outages are the primary's."""
        return Database(self.uri_through(self.primary.port), self.primary.container)

    def uri_through(self, port: int) -> str:
        """Return the address that a service is given, with the primary's port as it is reached another way."""
        hosts = f"127.0.0.1:{port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres:{PASSWORD}@{hosts}/sensorlog?target_session_attrs=read-write"

    def replicate_synchronously(self) -> None:
        """Let a COMMIT be answered only when the standby has it."""
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.execute("SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_until(
            lambda: self.primary.execute(state) == [("sync",)], deadline=20, what="the standby to be synchronous"
        )

    def stop_replication(self) -> None:
        """Let the standby receive nothing more: what is committed from now on is lost by a failover."""
        self.standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.execute("SELECT pg_reload_conf()")
        receivers = "SELECT count(*) FROM pg_stat_wal_receiver"
        wait_until(lambda: self.standby.execute(receivers) == [(0,)], deadline=20, what="replication to stop")

    @contextlib.contextmanager
    def replay_paused(self) -> Iterator[None]:
        """Let the standby receive and not replay within this block: what it shows gets older."""
        self.standby.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        wait_until(lambda: self.standby.execute(state) == [("paused",)], deadline=20, what="replay to pause")
        try:
            yield
        finally:
            self.standby.execute("SELECT pg_wal_replay_resume()")

    def waits_of_sessions(self, application_name: str) -> set[str]:
        """Return what the primary's sessions of an application wait for: pg_stat_activity.wait_event."""
        statement = "SELECT wait_event FROM pg_stat_activity WHERE application_name = %s"
        return {str(event) for (event,) in self.primary.execute(statement, [application_name])}

    def kill_primary(self) -> None:
        """Kill the primary (SIGKILL); it never comes back."""
        self.primary.container.kill()

    def fail_over(self) -> None:
        """Kill the primary and promote the standby; return when it takes writes."""
        self.kill_primary()
        self.promote()

    def promote(self) -> None:
        """Make the standby a primary; return when it takes writes."""
        assert self.standby.execute("SELECT pg_promote()") == [(True,)]


@contextlib.contextmanager
def replicated_database(engine: ContainerEngine) -> Iterator[ReplicatedDatabase]:
    """Yield a primary with a standby that follows it, asynchronously at first."""
    port, standby_port = free_port(), free_port()
    with engine.running(database_spec(port)) as container:
        primary = Database(database_uri(port), container)
        primary.wait_ready()
        _execute(container, 'echo "host replication all all scram-sha-256" >>"$PGDATA/pg_hba.conf"')
        primary.execute("SELECT pg_reload_conf()")
        with engine.running(_standby_spec(standby_port, container)) as standby_container:
            standby = Database(database_uri(standby_port), standby_container)
            standby.wait_ready()
            yield ReplicatedDatabase(primary, standby)


def _standby_spec(port: int, primary: Container) -> Spec:
    primary.reload()
    address = primary.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    source = f"host={address} user=postgres password={PASSWORD}"
    copy = f"pg_basebackup --dbname='{source}' --pgdata=\"$PGDATA\" --write-recovery-conf --checkpoint=fast"
    start = f'{copy}; exec postgres -D "$PGDATA" {" ".join(SETTINGS)}'
    return replace(database_spec(port), name="sensorlog-test-standby", command=["bash", "-euc", start])


def _execute(container: Container, script: str) -> None:
    # As root: a restarted container's tmpfs has forgotten its mode.
    status, output = container.exec_run(["bash", "-c", script], user="root")
    assert status == 0, output


def database_spec(port: int) -> Spec:
    """Return a TimescaleDB that is reached at 127.0.0.1:`port`."""
    return Spec(
        IMAGE,
        "sensorlog-test-timescaledb",
        ports={PORT: port},
        environment={"POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "sensorlog"},
        command=["postgres", *SETTINGS],
        tmpfs={SMALL_DISK: f"size={SMALL_DISK_MB}m"},
    )


def database_uri(port: int) -> str:
    """Return where `database_spec(port)` is reached."""
    return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/sensorlog"
