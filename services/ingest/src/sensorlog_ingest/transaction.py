"""One batch, one transaction: rows, sensors, dead letters and offsets are all stored, or none is.

Every row of a batch is written by its transaction itself and by none of its savepoints, whose rows would have another
xmin: that is how a watch of the query service finds the rows of a batch that it sees in `ingest_batches`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict

import numpy as np
import psycopg
from psycopg.rows import TupleRow

from sensorlog_ingest.batches import Batch
from sensorlog_ingest.canaries import Canary
from sensorlog_ingest.dead_letters import DeadLetter
from sensorlog_ingest.encode import encode
from sensorlog_ingest.messages import Partition
from sensorlog_ingest.readings import Readings
from sensorlog_ingest.registry import Registry
from sensorlog_ingest.rejections import Reason, Rejection, Rejections
from sensorlog_ingest.row_errors import is_caused_by_rows
from sensorlog_ingest.sensors import SensorRow
from sensorlog_ingest.sql import Statements

Connection = psycopg.Connection[TupleRow]

PRUNE_SECONDS = 60.0
"""How often batches that no watch can go back to are deleted."""


class FencedError(Exception):
    """A stored offset is not the one this batch builds on: somebody else has gone on from there."""


class BatchTransaction:
    """Writes batches of one pipeline on connections that are given to it (autocommit).

    The registry learns of each sensor before its readings are stored.
    """

    def __init__(self, statements: Statements, registry: Registry) -> None:
        self._statements = statements
        self.registry = registry
        self._prune_at = 0.0

    def write(self, connection: Connection, batch: Batch) -> list[DeadLetter]:
        """Store the batch and return its dead letters.

        Raises FencedError, with nothing stored, and whatever of psycopg.Error is not caused by single rows.
        """
        if len(batch.readings):
            self._prune(connection)
            self.registry.register(connection, batch.readings)
        try:
            return self._write(connection, batch, self._copy_all, self._upsert_all)
        except psycopg.Error as e:
            if not is_caused_by_rows(e):
                raise
        return self._write(connection, batch, self.copy_survivors, self._upsert_survivors)

    def _write(
        self,
        connection: Connection,
        batch: Batch,
        copy: Callable[[Connection, Batch], Rejections],
        upsert: Callable[[Connection, Batch], Rejections],
    ) -> list[DeadLetter]:
        with connection.transaction():
            rejected_readings = copy(connection, batch) if len(batch.readings) else {}
            rejected_sensors = upsert(connection, batch) if batch.sensors else {}
            letters = batch.dead_letters(more_readings=rejected_readings, more_sensors=rejected_sensors)
            self._insert_dead_letters(connection, letters)
            self._upsert_canaries(connection, batch.canaries)
            self._advance(connection, batch, len(batch.readings) - count(rejected_readings))
        return letters

    def _prune(self, connection: Connection) -> None:
        if time.monotonic() >= self._prune_at:
            connection.execute(self._statements.prune_batches)
            self._prune_at = time.monotonic() + PRUNE_SECONDS

    # Everything at once

    def _copy_all(self, connection: Connection, batch: Batch) -> Rejections:
        self._copy(connection, batch.copy)
        return {}

    def _copy(self, connection: Connection, document: memoryview) -> None:
        with connection.cursor().copy(self._statements.copy_readings) as copy:
            copy.write(document)

    def _upsert_all(self, connection: Connection, batch: Batch) -> Rejections:
        self._upsert(connection, batch.sensors)
        return {}

    def _upsert(self, connection: Connection, rows: Sequence[SensorRow]) -> None:
        sensors = [row.sensor for row in rows]
        connection.execute(
            self._statements.upsert_sensors,
            {
                "ids": [sensor.id for sensor in sensors],
                "types": [sensor.type for sensor in sensors],
                "locations": [sensor.location for sensor in sensors],
            },
        )

    # Around rows that the database refuses

    def copy_survivors(self, connection: Connection, batch: Batch) -> Rejections:
        """Store the batch's readings in the caller's transaction, around those that the database refuses.

        Which ones it refuses is found out under savepoints and taken back: see the module for why.
        Returns the refused ones; raises whatever of psycopg.Error is not caused by single rows.
        """
        readings = batch.readings

        def write(start: int, end: int) -> None:
            self._copy(connection, encode(readings.take(slice(start, end))))

        with connection.transaction(force_rollback=True):
            refused = write_around(connection, len(readings), write)
        rows = [row for row, _ in refused]
        survives = np.ones(len(readings), np.bool_)
        survives[rows] = False
        if survives.any():
            self._copy(connection, encode(readings.take(survives)))
        return refusals(_origins(readings, rows), refused)

    def _upsert_survivors(self, connection: Connection, batch: Batch) -> Rejections:
        rows = batch.sensors
        refused = write_around(connection, len(rows), lambda start, end: self._upsert(connection, rows[start:end]))
        return refusals([(rows[row].message, rows[row].position) for row, _ in refused], refused)

    # Dead letters, canaries and offsets

    def _insert_dead_letters(self, connection: Connection, letters: Iterable[DeadLetter]) -> None:
        if rows := [asdict(letter) for letter in letters]:
            connection.cursor().executemany(self._statements.insert_dead_letters, rows)

    def record(self, connection: Connection, batch: Batch, stored: int) -> None:
        """Tell watches that the caller's transaction stores so many of the batch's readings."""
        if stored:
            connection.execute(self._statements.record_batch, _record(batch, stored))

    def _upsert_canaries(self, connection: Connection, canaries: Sequence[Canary]) -> None:
        if canaries:
            partitions, tokens = zip(*canaries, strict=True)
            parameters = {"partitions": list(partitions), "tokens": list(tokens)}
            connection.execute(self._statements.upsert_canaries, parameters)

    def _advance(self, connection: Connection, batch: Batch, stored: int) -> None:
        cursor = connection.execute(
            self._statements.advance_offsets,
            {
                **_record(batch, stored),
                **_keys(batch.advances),
                "seen": [advance.seen for advance in batch.advances.values()],
                "next": [advance.next for advance in batch.advances.values()],
            },
        )
        if cursor.rowcount != len(batch.advances):
            raise FencedError(f"{cursor.rowcount} of {len(batch.advances)} stored offsets are as this batch expects")

    def offsets(self, connection: Connection, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the stored next_offset of each partition; one that was never stored starts at 0."""
        connection.execute(self._statements.create_offsets, _keys(partitions))
        return self.stored(connection, partitions)

    def stored(self, connection: Connection, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the stored next_offset of those partitions that have one; waits for nobody's transaction."""
        rows = connection.execute(self._statements.read_offsets, _keys(partitions))
        return {Partition(topic, partition): offset for topic, partition, offset in rows}

    def is_stored(self, connection: Connection, batch: Batch) -> bool:
        """Return whether the batch was committed after all: the offsets tell, where the answer got lost."""
        stored = self.offsets(connection, batch.advances)
        return all(stored[partition] == advance.next for partition, advance in batch.advances.items())


def write_around(
    connection: Connection, count: int, write: Callable[[int, int], None]
) -> list[tuple[int, psycopg.Error]]:
    """Write rows 0..count, halving where the database refuses, and return the single rows it refuses, with why.

    Each `write(start, end)` is under a savepoint of its own.
    """
    refused: list[tuple[int, psycopg.Error]] = []
    open_ranges = [(0, count)]
    while open_ranges:
        start, end = open_ranges.pop()
        try:
            with connection.transaction():
                write(start, end)
        except psycopg.Error as e:
            if not is_caused_by_rows(e):
                raise
            if end - start == 1:
                refused.append((start, e))
            else:
                middle = (start + end) // 2
                open_ranges += [(middle, end), (start, middle)]
    return refused


def _origins(readings: Readings, rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(int(readings.message[row]), int(readings.position[row])) for row in rows]


def refusals(origins: Sequence[tuple[int, int]], refused: Sequence[tuple[int, psycopg.Error]]) -> Rejections:
    """Return what `write_around` says was refused as rejections; `origins` are the (message, position) of each."""
    rejections: Rejections = {}
    for (message, position), (_, error) in zip(origins, refused, strict=True):
        detail = f"SQLSTATE {error.sqlstate}: {error.diag.message_primary or error}"
        rejections.setdefault(message, []).append(Rejection(Reason.DATABASE_REJECTED, detail, position))
    return rejections


def count(rejections: Rejections) -> int:
    """Return how many readings, or sensors, were rejected."""
    return sum(map(len, rejections.values()))


def _record(batch: Batch, stored: int) -> dict[str, int]:
    """Return what `ingest_batches` is to say; the times are those of the whole batch, also where some were refused."""
    times = batch.readings.time_us
    first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    return {"rows": stored, "first_us": first, "last_us": last}


def _keys(partitions: Collection[Partition]) -> dict[str, list[str] | list[int]]:
    return {"topics": [p.topic for p in partitions], "partitions": [p.partition for p in partitions]}
