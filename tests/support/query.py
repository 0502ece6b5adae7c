"""The query service under test, and its answers computed a second time in plain Python."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog_ingest.sql import registry_statements
from support.containers import free_port
from support.database import Database
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess

APPLICATION = "sensorlog-query"
CALL_SECONDS = 60

Values = tuple[float | None, ...]
Reading = tuple[int, int, Values]
"""(ts in seconds, sensor_id, a value or None per measurement)."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = 3_600
ORIGIN = datetime(2000, 1, 3)  # noqa: DTZ001 -- where buckets are counted from, by whatever clock


@dataclass(frozen=True)
class QueryService:
    """A running service and a channel to it."""

    process: ServiceProcess
    channel: grpc.Channel
    stub: LoggerStub
    target: str


@contextmanager
def query_service(
    start_service: Callable[..., ServiceProcess], pipeline: Pipeline, *, wait: bool = True, **settings: str
) -> Iterator[QueryService]:
    """Yield a query service on a free port, ready unless told not to wait."""
    port = free_port()
    process = start_service("sensorlog_query", pipeline, SENSORLOG_GRPC_PORT=str(port), **settings)
    if wait:
        process.wait_ready()
    target = f"127.0.0.1:{port}"
    with grpc.insecure_channel(target) as channel:
        yield QueryService(process, channel, LoggerStub(channel), target)


@contextmanager
def refused(code: grpc.StatusCode, words: str = "") -> Iterator[None]:
    """Expect a call in this block to end with `code` and a message that has `words` in it."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() == code, caught.value
    assert words in str(caught.value.details())


def running_statements(database: Database) -> list[str]:
    """Return the last statement of each transaction that the service has open now."""
    rows = database.execute(
        "SELECT query FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'", [APPLICATION]
    )
    return [row[0] for row in rows]


@contextmanager
def readings_locked(pipeline: Pipeline) -> Iterator[None]:
    """Make every statement on the readings wait within this block."""
    with pipeline.database.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {pipeline.schema}.sensor_data IN ACCESS EXCLUSIVE MODE".encode())
        yield


def random_readings(seed: int, *, measurements: int = 2, count: int = 600) -> list[Reading]:
    """Return readings of some sensors over a few days, in no order, with NULLs and with equal keys."""
    random = Random(seed)  # noqa: S311 -- test data
    sensors = [-3, 1, 2, 7, 1_000_000_007]
    moments = [SEED_TS + random.randrange(4 * 86_400) for _ in range(count // 4)]
    return [
        (random.choice(moments), random.choice(sensors), tuple(_value(random) for _ in range(measurements)))
        for _ in range(count)
    ]


def _value(random: Random) -> float | None:
    return None if random.random() < 0.1 else random.choice([random.uniform(-50, 100), 0.0, 1.0])


def store(pipeline: Pipeline, readings: Iterable[Reading]) -> None:
    """Store `readings` without ingest, and register their sensors as it would."""
    rows = list(readings)
    pipeline.insert_readings((EPOCH + timedelta(seconds=ts), sensor, *values) for ts, sensor, values in rows)
    with pipeline.database.connect() as connection:
        connection.execute(
            registry_statements(pipeline.schema).register, {"ids": sorted({sensor for _, sensor, _ in rows})}
        )


def in_order(readings: Iterable[Reading]) -> list[Reading]:
    """Return `readings` as ListSensorData has them: by time, sensor, then values, NULL last."""
    return sorted(readings, key=lambda r: (r[0], r[1], [(v is None, v or 0.0) for v in r[2]]))


def as_reading(message: pb.SensorData) -> Reading:
    """Return a message of a pipeline that measures temperature and cpu."""
    values = tuple(getattr(message, name) if message.HasField(name) else None for name in ("temperature", "cpu"))
    return message.ts, message.sensor_id, values


def start_of(ts: int, seconds: int, zone: str = "UTC") -> int:
    """Return the start of the bucket that `ts` is in; of an hour that comes twice, up to an hour's buckets do too."""
    clock = datetime.fromtimestamp(ts, ZoneInfo(zone)).replace(tzinfo=None)
    passed = (clock - ORIGIN) % timedelta(seconds=seconds)
    if seconds <= HOUR:
        return ts - int(passed.total_seconds())
    return int((clock - passed).replace(tzinfo=ZoneInfo(zone)).timestamp())  # fold=0: the earlier of two


def bucketed(
    readings: Iterable[Reading], seconds: int, *, per_sensor: bool = False, zone: str = "UTC"
) -> dict[Any, list[Reading]]:
    """Return the readings of each (start of bucket, sensor_id or None)."""
    buckets: dict[Any, list[Reading]] = {}
    for reading in in_order(readings):
        key = (start_of(reading[0], seconds, zone), reading[1] if per_sensor else None)
        buckets.setdefault(key, []).append(reading)
    return dict(sorted(buckets.items(), key=lambda item: (item[0][0], item[0][1] or 0)))


def average(readings: Sequence[Reading], measurement: int) -> float | None:
    """Return the mean of the values there are."""
    values = [r[2][measurement] for r in readings]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def latest(readings: Sequence[Reading], measurement: int) -> float | None:
    """Return the last value there is, of readings in order; among equal keys the largest."""
    present = [r for r in readings if r[2][measurement] is not None]
    return max(present, key=lambda r: (r[0], r[1], r[2][measurement]))[2][measurement] if present else None
