"""Replaying dead letters: as if ingest read them now, without going through Kafka.

One transaction takes a batch of letters out of the table, stores what is good in them by now, and puts back what is
not. Either all of that is there or none: whatever ends the process, or cuts its connection at COMMIT, a letter is
either still in the table or its readings are stored, never both. So a replay may be repeated at any time. Offsets are
not touched, and a running ingest does not notice.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import psycopg

from sensorlog.letters import Format, LetterId
from sensorlog.measurements import names
from sensorlog.pipeline import PipelineConfig
from sensorlog_ingest import sql
from sensorlog_ingest.batches import Batch, BatchBuilder
from sensorlog_ingest.dead_letters import DeadLetter, dead_letter_again
from sensorlog_ingest.messages import CONTENT_TYPE, PROTOBUF, Header, Message
from sensorlog_ingest.registry import Registry, distinct
from sensorlog_ingest.rejections import Rejections
from sensorlog_ingest.sensors import SensorRow
from sensorlog_ingest.stored_letters import LetterTable, Peeked, StoredLetter
from sensorlog_ingest.transaction import BatchTransaction, Connection, count, refusals, write_around


@dataclass(frozen=True, slots=True)
class Replacement:
    """A corrected value, to be replayed in the place of the one that a letter holds."""

    value: bytes
    format: Format

    def of(self, letter: StoredLetter) -> StoredLetter:
        """Return the letter with this value, and headers that say its format."""
        headers: list[Header] = [header for header in letter.headers() if header[0].lower() != CONTENT_TYPE]
        if self.format == "protobuf":
            headers.append((CONTENT_TYPE, PROTOBUF))
        return replace(letter, stored_value=self.value, stored_headers=headers)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one batch of letters; `returned` are those of which something is still rejected."""

    taken: frozenset[LetterId] = frozenset()
    readings: int = 0
    sensors: int = 0
    superseded: int = 0
    returned: Sequence[DeadLetter] = field(default=())


class Replayer:
    """Replays dead letters of one pipeline on a connection that is given to it (autocommit)."""

    def __init__(self, config: PipelineConfig, connection: Connection, table: LetterTable) -> None:
        self._builder = BatchBuilder(config)
        self._transaction = BatchTransaction(
            sql.statements(config.db_schema, names(config.measurements)),
            Registry(sql.registry_statements(config.db_schema)),
        )
        self._upsert_sensors = sql.letter_statements(config.db_schema).upsert_older_sensors
        self._connection = connection
        self._table = table

    def replay(self, peeked: Collection[Peeked], *, dry_run: bool = False) -> Replayed:
        """Replay letters in one transaction and return what became of those that were still there.

        A dry run does the same and rolls it back: only the database knows what it would refuse.
        Raises psycopg.Error, with nothing changed unless the connection was lost at COMMIT.
        """
        with self._connection.transaction(force_rollback=dry_run):
            return self._store(self._table.take(peeked))

    def replay_corrected(self, peeked: Collection[Peeked], by: Replacement, *, dry_run: bool = False) -> Replayed:
        """Replay letters with another value: all of it is stored, or the letter stays as it is.

        What the person wrote may be wrong too, and must not take the place of what was sent.
        """
        with self._connection.transaction(force_rollback=dry_run):
            result = self._store([by.of(letter) for letter in self._table.take(peeked)])
            if result.returned:
                raise psycopg.Rollback
        return replace(result, readings=0, sensors=0, superseded=0) if result.returned else result

    def _store(self, letters: Sequence[StoredLetter]) -> Replayed:
        if not letters:
            return Replayed()
        self._builder.add(letters, time.time())
        batch = self._builder.build({}, epoch=0)
        refused_readings = self._copy(batch)
        stored = len(batch.readings) - count(refused_readings)
        self._transaction.record(self._connection, batch, stored)
        refused_sensors, sensors = self._upsert(_sensors_of(batch))
        returned = [
            *_returned(batch.reading_messages, batch.reading_rejections, refused_readings),
            *_returned(batch.sensor_messages, batch.sensor_rejections, refused_sensors),
        ]
        self._table.restore(returned, {letter.id: letter.received_at for letter in letters})
        return Replayed(
            taken=frozenset(letter.id for letter in letters),
            readings=stored,
            sensors=sensors,
            superseded=len(batch.sensors) - count(refused_sensors) - sensors,
            returned=returned,
        )

    def _copy(self, batch: Batch) -> Rejections:
        return self._transaction.copy_survivors(self._connection, batch) if len(batch.readings) else {}

    def _upsert(self, sensors: Sequence["_Sensor"]) -> tuple[Rejections, int]:
        """Store sensors of which nothing newer is known; return what was refused, and how many were stored.

        Of those that only report, neither is told.
        """
        stored = 0

        def write(start: int, end: int) -> None:
            nonlocal stored
            stored += self._upsert_rows(sensors[start:end])

        refused = write_around(self._connection, len(sensors), write) if sensors else []
        told = [(i, row, error) for i, error in refused if (row := sensors[i].row)]
        origins = [(row.message, row.position) for _, row, _ in told]
        return refusals(origins, [(i, error) for i, _, error in told]), stored

    def _upsert_rows(self, sensors: Sequence["_Sensor"]) -> int:
        parameters = {
            "ids": [sensor.id for sensor in sensors],
            "types": [sensor.row and sensor.row.sensor.type for sensor in sensors],
            "locations": [sensor.row and sensor.row.sensor.location for sensor in sensors],
            "received": [sensor.received_at for sensor in sensors],
        }
        return sum(announced for (announced,) in self._connection.execute(self._upsert_sensors, parameters))


class _Sensor(NamedTuple):
    """A sensor that announced itself in a letter received then, or one that only reports."""

    id: int
    row: SensorRow | None = None
    received_at: datetime | None = None


def _sensors_of(batch: Batch) -> list[_Sensor]:
    """Return all sensors of a batch of letters in order of id."""
    reporting = {sensor_id: _Sensor(sensor_id) for sensor_id in distinct(batch.readings.sensor_id).tolist()}
    announced = {row.sensor.id: _Sensor(row.sensor.id, row, _received(batch, row)) for row in batch.sensors}
    return [sensor for _, sensor in sorted((reporting | announced).items())]


def _received(batch: Batch, row: SensorRow) -> datetime:
    letter = batch.sensor_messages[row.message]
    assert isinstance(letter, StoredLetter)  # noqa: S101 -- the messages are those of _store
    return letter.received_at


def _returned(messages: Sequence[Message], rejected: Rejections, refused: Rejections) -> Iterator[DeadLetter]:
    for index in sorted({*rejected, *refused}):
        yield dead_letter_again(messages[index], [*rejected.get(index, []), *refused.get(index, [])])
