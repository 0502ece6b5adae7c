"""Watches of the query service, read in the background, and batches as ingest stores them, without ingest."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import psycopg

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_ingest.sql import RECORD_BATCH, registry_statements
from support.pipelines import SEED_TS, Pipeline
from support.query import EPOCH, QueryService
from support.waiting import wait_for_value, wait_until

ARRIVAL_SECONDS = 20
Key = tuple[int, int]
"""ts and sensor_id of a reading."""


@dataclass
class Listener:
    """Reads a watch in a thread of its own. What came without a token yet is not counted: it would come again."""

    service: QueryService
    request: pb.WatchSensorDataReq
    metadata: Mapping[str, str] = field(default_factory=dict)
    readings: list[Key] = field(default_factory=list)
    missed: list[pb.Missed] = field(default_factory=list)
    token: str = ""
    tokens: int = 0
    staleness: int | None = None
    """What the last message said, in milliseconds."""
    error: grpc.RpcError | None = None

    def __post_init__(self) -> None:
        self._held: list[Key] = []
        self._call: Any = self.service.stub.WatchSensorData(self.request, metadata=tuple(self.metadata.items()))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._held += [(reading.ts, reading.sensor_id) for reading in reply.results]
                if reply.HasField("missed"):
                    self.missed.append(reply.missed)
                self.staleness = reply.staleness_ms if reply.HasField("staleness_ms") else None
                if reply.resume_token:
                    self.readings += self._held
                    self._held = []
                    self.token = reply.resume_token
                    self.tokens += 1
        except grpc.RpcError as e:
            self.error = e

    def begun(self) -> "Listener":
        """Wait for the first token, from which on nothing is missed."""
        wait_until(lambda: self.token or self.error, deadline=ARRIVAL_SECONDS, what="the first token")
        assert self.error is None, self.error
        return self

    def wait_for(self, expected: list[Key]) -> None:
        """Wait for exactly these readings."""
        wait_for_value(
            lambda: sorted(self.readings), sorted(expected), deadline=ARRIVAL_SECONDS, what="the readings watched"
        )

    def ended(self, *, deadline: float = ARRIVAL_SECONDS) -> grpc.StatusCode:
        """Wait until the service ends the watch, and return its code."""
        self._thread.join(deadline)
        assert self.error is not None, f"the watch goes on after {deadline:.0f} s"
        return self.error.code()

    def end(self) -> str:
        """Hang up and return the last token."""
        self._call.cancel()
        self._thread.join(ARRIVAL_SECONDS)
        return self.token


def watch(service: QueryService, *sensor_ids: int, token: str = "", max_staleness: int | None = None) -> Listener:
    """Begin to watch; the watch stands when this returns."""
    request = pb.WatchSensorDataReq(sensor_ids=sensor_ids, resume_token=token)
    metadata = {} if max_staleness is None else {"max-staleness-ms": str(max_staleness)}
    return Listener(service, request, metadata).begun()


@dataclass
class Batch:
    """A transaction of ingest's, which a test keeps open for as long as it likes."""

    pipeline: Pipeline
    connection: psycopg.Connection[Any]

    def store(self, *keys: Key) -> None:
        """Store readings, and record the batch as ingest does."""
        schema = self.pipeline.schema
        with self.connection.cursor() as cursor:
            with cursor.copy(f"COPY {schema}.sensor_data (time, sensor_id) FROM STDIN".encode()) as copy:
                for ts, sensor in keys:
                    copy.write_row((EPOCH + timedelta(seconds=ts), sensor))
            times = [ts * 1_000_000 for ts, _ in keys]
            record = RECORD_BATCH.format(batches=psycopg.sql.Identifier(schema, "ingest_batches"))
            cursor.execute(record, {"rows": len(keys), "first_us": min(times), "last_us": max(times)})

    def commit(self) -> None:
        """Commit."""
        self.connection.commit()


@contextmanager
def batch(pipeline: Pipeline, *keys: Key) -> Iterator[Batch]:
    """Yield a transaction that has stored `keys` and is not committed. Their sensors are registered ahead of it."""
    registered = registry_statements(pipeline.schema).register
    with pipeline.database.connect() as connection:
        connection.execute(registered, {"ids": sorted({sensor for _, sensor in keys})})
    with psycopg.connect(pipeline.database.uri) as connection:
        opened = Batch(pipeline, connection)
        opened.store(*keys)
        yield opened


def store(pipeline: Pipeline, *keys: Key) -> None:
    """Commit a batch."""
    with batch(pipeline, *keys) as opened:
        opened.commit()


def keys(first: int, count: int, sensor_id: int = 1) -> list[Key]:
    """Return so many readings of a sensor, a second each."""
    return [(SEED_TS + number, sensor_id) for number in range(first, first + count)]


def values(expected: list[Key]) -> list[dict[str, int]]:
    """Return `expected` as messages."""
    return [{"ts": ts, "sensor_id": sensor_id, "temperature": 1} for ts, sensor_id in expected]
