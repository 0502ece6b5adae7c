"""The figures in a pipeline's status, and whether Kafka is about to delete what is not stored yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql as pgsql

from sensorlog import durations
from sensorlog_operator import sql
from sensorlog_operator.backlog import Backlog
from sensorlog_operator.conditions import Condition
from sensorlog_operator.connections import Connection, mapped_errors
from sensorlog_operator.errors import Reason
from sensorlog_operator.schema import READINGS

RATE_SECONDS = 60
"""Time that the rate of rows is averaged over. Ingest keeps its batches' times for longer."""

AT_RISK = 0.5
"""Part of the topic's retention that the oldest reading not stored may reach before somebody is told."""

_FINE = timedelta(minutes=1)
_STEP = 1024
_NONE = timedelta()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database holds of a pipeline."""

    rows_per_second: float
    newest: datetime | None
    """Time of the newest reading of the last hour's batches, None where there was none."""
    dead_letters_last_hour: int
    size_bytes: int
    """Of the readings' hypertable on disk, with its indexes."""
    chunks: int


def observe(connection: Connection, schema: str) -> Stored:
    """Return what the database holds of `schema`, whose tables must exist."""
    return observe_each(connection, [schema])[schema]


def observe_each(connection: Connection, schemas: Sequence[str]) -> dict[str, Stored]:
    """Return the same of each of `schemas`, in one statement."""
    statement = sql.UNION_ALL.join(map(_statement, schemas))
    with mapped_errors():
        rows = connection.execute(statement, {"seconds": RATE_SECONDS}).fetchall()
    return {row["schema"]: _stored(row) for row in rows}


def _statement(schema: str) -> pgsql.Composed:
    return sql.FIGURES.format(
        schema=pgsql.Literal(schema),
        batches=pgsql.Identifier(schema, "ingest_batches"),
        letters=pgsql.Identifier(schema, "dead_letters"),
        table=pgsql.Literal(pgsql.Identifier(schema, READINGS).as_string(None)),
    )


def _stored(row: Mapping[str, Any]) -> Stored:
    return Stored(
        rows_per_second=row["rows"] / RATE_SECONDS,
        newest=row["newest"],
        dead_letters_last_hour=row["dead_letters"],
        size_bytes=row["size_bytes"],
        chunks=row["chunks"],
    )


def stored_fields(stored: Stored, before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the status fields of what is stored. `before` is the status so far: the newest reading is kept in it."""
    return {
        "rowsPerSecond": _two_digits(stored.rows_per_second),
        "deadLettersLastHour": stored.dead_letters_last_hour,
        "sizeBytes": stored.size_bytes,
        "size": _size(stored.size_bytes),
        "chunks": stored.chunks,
        **_newest_fields(stored.newest or _parsed(before.get("newestReading")), now),
    }


def _newest_fields(newest: datetime | None, now: datetime) -> dict[str, str]:
    if newest is None:
        return {}
    age = max(_NONE, now - newest)
    rounded = timedelta(seconds=int(age.total_seconds())) if age < _FINE else age // _FINE * _FINE
    return {
        "newestReading": newest.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "freshness": durations.text(rounded),
    }


def _parsed(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _two_digits(rate: float) -> int:
    """Return a rate as a whole number of two significant digits, so that a steady one reads the same each time."""
    return int(float(f"{rate:.2g}"))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _STEP:
            return f"{count:.3g} {unit}"
        count /= _STEP
    return f"{count:.4g} TiB"


def backlog_fields(backlog: Backlog, retention: timedelta | None) -> dict[str, Any]:
    """Return the status fields of what is not stored yet. Without `retention` nothing is ever lost."""
    left = "never" if retention is None else durations.text(_rough(max(_NONE, retention - backlog.oldest)))
    return {"lag": backlog.lag, "timeToDataLoss": left}


def _rough(duration: timedelta) -> timedelta:
    """Return the duration in whole units that a person would say: it is known to a tenth only."""
    step = next((s for s in (timedelta(days=1), timedelta(hours=1), _FINE) if duration >= 3 * s), timedelta(seconds=1))
    return duration // step * step


def data_safe(backlog: Backlog, retention: timedelta | None) -> Condition:
    """Return the condition that says whether Kafka is about to delete readings that are not stored, or has."""
    if backlog.lost:
        return _at_risk(
            Reason.READINGS_LOST,
            f"The topic begins {backlog.lost} messages after what is stored: retention deleted them unread. Lengthen"
            " spec.kafka.readings.retention, and see in IngestReady and SchemaReady what keeps ingest from storing.",
        )
    if retention is not None and backlog.oldest > AT_RISK * retention:
        age, left = (
            durations.text(_rough(backlog.oldest)),
            durations.text(_rough(max(_NONE, retention - backlog.oldest))),
        )
        return _at_risk(
            Reason.RETENTION_NEAR,
            f"The oldest reading that is not stored is {age} old, and the topic keeps {durations.text(retention)}: in"
            f" {left} it is lost. Lengthen spec.kafka.readings.retention now; then see in IngestReady and SchemaReady"
            " what keeps ingest from storing, or give it more replicas.",
        )
    return Condition(
        "DataSafe", status=True, reason=Reason.READY, message="Readings are stored long before Kafka deletes them."
    )


def _at_risk(reason: Reason, message: str) -> Condition:
    return Condition("DataSafe", status=False, reason=reason, message=message)
