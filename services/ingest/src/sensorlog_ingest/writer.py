"""The writer: a thread with a connection of its own that stores batches in order, whatever happens to the database.

The consumer gives it commands and takes outcomes; neither waits for the other except where it says so. A database
that is away is not an error: the command is tried until it succeeds, is dropped, or the writer is closed.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import structlog

from sensorlog_ingest.backoff import Backoff
from sensorlog_ingest.batches import Batch
from sensorlog_ingest.messages import Partition
from sensorlog_ingest.metrics import Metrics
from sensorlog_ingest.tracing import Tracer
from sensorlog_ingest.transaction import BatchTransaction, Connection, FencedError

log = structlog.get_logger(__name__)

MAX_WAITING = 2
"""Batches that wait while one is being written. More would only cost memory."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""A second batch waits only if both together hold no more than this: large messages must not add up."""

WATCH_SECONDS = 5.0
"""How often the writer looks whether the database still has what it has confirmed.

Nobody else would tell a quiet process that its database is away, or that a failover to an asynchronous standby, or
a restore, has taken back what was stored.
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch is stored: `offsets` are where its partitions go on."""

    offsets: Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class Fenced:
    """Stored offsets are not as expected. Everything in flight is dropped; `epoch` is the new one."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Offsets:
    """The stored offsets that were asked for in `epoch`."""

    epoch: int
    next_offsets: Mapping[Partition, int]


Outcome = Committed | Fenced | Offsets


@dataclass(frozen=True, slots=True)
class _ReadOffsets:
    epoch: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class _Watch:
    epoch: int


class _DroppedError(Exception):
    """The command is no longer wanted."""


class Writer:
    """Stores batches in the order they are submitted.

    Everything in flight belongs to an epoch. `drop` and a fence begin a new one; what is of an older epoch is not
    stored any more, unless its transaction was already on its way.
    """

    def __init__(
        self, connect: Callable[[], Connection], transaction: BatchTransaction, metrics: Metrics, tracer: Tracer
    ) -> None:
        self._connect = connect
        self._transaction = transaction
        self._metrics = metrics
        self._tracer = tracer
        self._connection: Connection | None = None
        self._changed = threading.Condition()
        self._commands: deque[Batch | _ReadOffsets] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._busy = False
        self._watch_at = 0.0  # at once, so that readiness tells about the database from the start
        self._confirmed: dict[Partition, int] = {}  # next_offsets, as the database has told the writer's thread
        self._closing = False
        self._epoch = 0
        self._failure: BaseException | None = None
        self._problem: str | None = "the database has not answered yet"
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    # For the consumer's thread

    def start(self) -> None:
        """Connect, and store what is submitted until `close`."""
        self._thread.start()

    def problem(self) -> str | None:
        """Return why nothing can be stored now, None when all is well."""
        return self._problem

    def submit(self, batch: Batch, timeout: float) -> bool:
        """Take a batch, waiting up to `timeout` seconds for a free place; return whether it was taken.

        A batch of an older epoch counts as taken, and is dropped.
        """
        with self._changed:
            has_room = self._changed.wait_for(lambda: self._failure or self._has_room(batch), timeout)
            self._raise_failure()
            if not has_room:
                return False
            if batch.epoch == self._epoch:
                self._commands.append(batch)
                self._changed.notify_all()
            return True

    def ask_offsets(self, partitions: Iterable[Partition]) -> None:
        """Ask for the stored offsets; they come as an outcome, after everything submitted before."""
        with self._changed:
            self._commands.append(_ReadOffsets(self._epoch, tuple(partitions)))
            self._changed.notify_all()

    def outcomes(self) -> list[Outcome]:
        """Return what has happened since the last call. Raises what made the thread fail, if anything did."""
        with self._changed:
            self._raise_failure()
            outcomes = list(self._outcomes)
            self._outcomes.clear()
            return outcomes

    def drop(self) -> int:
        """Forget everything in flight and return the new epoch."""
        with self._changed:
            return self._begin_epoch()

    def drain(self, timeout: float) -> bool:
        """Wait until everything submitted is stored; return whether it is within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle() or self._failure, timeout)
            self._raise_failure()
            return self._is_idle()

    def close(self, timeout: float) -> bool:
        """Stop after what was submitted, or after `timeout` seconds; return whether everything was stored."""
        drained = self.drain(timeout)
        with self._changed:
            self._closing = True
            self._begin_epoch()
        self._thread.join(timeout=max(1.0, timeout))
        return drained

    def _has_room(self, batch: Batch) -> bool:
        waiting = [command for command in self._commands if isinstance(command, Batch)]
        held_bytes = sum(each.held_bytes for each in (*waiting, batch))
        return not waiting or (len(waiting) < MAX_WAITING and held_bytes <= MAX_WAITING_BYTES)

    def _is_idle(self) -> bool:
        return not self._busy and not self._commands

    def _begin_epoch(self) -> int:
        self._epoch += 1
        self._commands.clear()
        self._changed.notify_all()
        return self._epoch

    def _raise_failure(self) -> None:
        if self._failure:
            raise RuntimeError("the writer's thread ended") from self._failure

    # The writer's own thread

    def _run(self) -> None:
        try:
            while command := self._next():
                self._carry_out(command)
        except BaseException as e:  # noqa: BLE001 -- raised again in the consumer's thread, which ends the process
            with self._changed:
                self._failure = e
                self._changed.notify_all()
        finally:
            self._disconnect()

    def _next(self) -> Batch | _ReadOffsets | _Watch | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._commands or self._closing, self._watch_at - time.monotonic())
            if self._closing:
                return None
            if time.monotonic() >= self._watch_at:
                return _Watch(self._epoch)  # not busy: it stores nothing, so nobody has to wait for it
            self._busy = True
            command = self._commands.popleft()
            self._changed.notify_all()
            return command

    def _carry_out(self, command: Batch | _ReadOffsets | _Watch) -> None:
        try:
            match command:
                case Batch():
                    self._report(self._store(command))
                case _ReadOffsets():
                    self._report(self._read_offsets(command))
                case _Watch():
                    with contextlib.suppress(_DroppedError):  # the next look comes at once
                        self._watch(command)
        except _DroppedError:
            log.info("dropped, to be read again", epoch=command.epoch)
        except FencedError as e:
            log.warning("the stored offsets are not where this process left them; reading them again", detail=str(e))
            self._metrics.fenced.inc()
            self._confirmed.clear()
            self._transaction.registry.forget()
            self._report(Fenced(self.drop()))

    def _report(self, outcome: Outcome) -> None:
        with self._changed:
            self._outcomes.append(outcome)

    def _read_offsets(self, command: _ReadOffsets) -> Offsets:
        def read(connection: Connection, _: bool) -> dict[Partition, int]:  # noqa: FBT001 -- as _persistently calls it
            self._transaction.registry.complete(connection)
            return self._transaction.offsets(connection, command.partitions)

        offsets = self._persistently(read, command.epoch)
        self._confirmed |= offsets
        return Offsets(command.epoch, offsets)

    def _watch(self, command: _Watch) -> None:
        """Raise FencedError if an offset has gone back behind what the database once confirmed.

        Partitions that were given away are watched too: their offsets only move on, unless commits were lost.
        """
        stored = self._persistently(
            lambda connection, _: self._transaction.stored(connection, self._confirmed), command.epoch
        )
        self._watch_at = time.monotonic() + WATCH_SECONDS
        behind = [partition for partition, offset in self._confirmed.items() if stored.get(partition, 0) < offset]
        if behind:
            raise FencedError(
                f"the database has lost what it had confirmed of {len(behind)} partitions (a failover, a restore)"
            )

    def _store(self, batch: Batch) -> Committed:
        def attempt(connection: Connection, is_retry: bool) -> None:  # noqa: FBT001 -- as _persistently calls it
            # A connection that breaks at COMMIT leaves open whether it happened.
            if is_retry and self._transaction.is_stored(connection, batch):
                self._metrics.committed(batch, batch.dead_letters(more_readings={}, more_sensors={}), 0)
            else:
                self._write(connection, batch)

        self._persistently(attempt, batch.epoch)
        committed = Committed({partition: advance.next for partition, advance in batch.advances.items()})
        self._confirmed |= committed.offsets
        return committed

    def _write(self, connection: Connection, batch: Batch) -> None:
        started = time.monotonic()
        with self._tracer.batch(batch):
            letters = self._transaction.write(connection, batch)
        self._metrics.committed(batch, letters, time.monotonic() - started)

    def _persistently(self, work: Callable[[Connection, bool], T], epoch: int) -> T:
        """Return `work(connection, is_retry)`, tried until the database lets it succeed.

        Raises _DroppedError when the epoch is over, and what `work` raises other than psycopg.Error.
        """
        backoff = Backoff()
        is_retry = False
        while True:
            try:
                result = work(self._connected(), is_retry)
            except psycopg.Error as e:
                is_retry = True
                self._database_failed(e)
                self._pause(backoff.next_delay(), epoch)
            else:
                self._database_works()
                return result

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _database_failed(self, error: psycopg.Error) -> None:
        self._disconnect()
        self._metrics.database_up.set(0)
        self._metrics.reconnects.inc()
        lines = str(error).strip().splitlines()
        self._problem = f"the database does not take batches: {lines[0] if lines else type(error).__name__}"
        log.warning("the database does not take batches; trying again", error=self._problem, state=error.sqlstate)

    def _database_works(self) -> None:
        if self._problem:
            log.info("the database takes batches")
        self._problem = None
        self._metrics.database_up.set(1)

    def _pause(self, seconds: float, epoch: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._epoch != epoch or self._closing, seconds)
            if self._epoch != epoch or self._closing:
                raise _DroppedError
