"""What TimescaleDB does with old readings: retention, compression, rollups. By policies of its own where it may.

The apache edition has none of them. There the operator drops old chunks itself, as often as it reconciles, and
says of the rest that the edition lacks it: queries are then answered from the readings, with the same numbers.

`observe`, `plan` and `apply` are as in `schema`, after which they come: the hypertable is there already.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from psycopg import sql as pgsql

from sensorlog import durations
from sensorlog_operator import features_sql, policies, rollups, sql
from sensorlog_operator.connections import Connection, mapped_errors
from sensorlog_operator.plans import Action
from sensorlog_operator.policies import Policy
from sensorlog_operator.rollups import ObservedRollup
from sensorlog_operator.schema import READINGS, Edition, Execute

OLDEST_VERSION = (2, 14)
"""Of TimescaleDB, whose catalogs are read here."""
COLUMNSTORE_VERSION = (2, 18)
"""Since when compression is called columnstore."""

CHUNKS_AT_ONCE = 32
"""Each dropped chunk is locked until the transaction ends, in a table of locks that all sessions share."""

ROLLUP_MARGIN = timedelta(days=7)
"""How long the policy that drops readings, which runs daily, may be late before a rollup does without them."""

SEGMENT_BY, ORDER_BY = "sensor_id", "time DESC"
"""How readings are compressed: a sensor's lie together, the newest first, as they are asked for."""


@dataclass(frozen=True, slots=True)
class DesiredFeatures:
    """What the resource asks for, of the readings in `schema`."""

    schema: str
    measurements: tuple[str, ...]
    retention: timedelta | None = None
    compress_after: timedelta | None = None
    rollups: tuple[timedelta, ...] = ()
    chunk_interval: timedelta = timedelta(days=1)

    @property
    def rollup_retention(self) -> timedelta | None:
        """Return the age at which a rollup's chunks go.

        Long after the readings that they are made of, of which the last may share a chunk with younger ones: what
        readings are still there must not be missing in a rollup.
        """
        return None if self.retention is None else self.retention + self.chunk_interval + ROLLUP_MARGIN

    @property
    def any(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.retention or self.compress_after or self.rollups)


@dataclass(frozen=True, slots=True)
class ObservedFeatures:
    """What the database has. `version` is empty where the extension is still to be created.

    `expired` holds the ends of the oldest chunks that the retention is over for; only where nobody else drops them.
    """

    edition: Edition | None
    version: tuple[int, ...]
    expired: tuple[datetime, ...] = ()
    retention: Policy | None = None
    compression: Policy | None = None
    compressed_by: tuple[str, str] | None = None
    rollups: tuple[ObservedRollup, ...] = ()

    @property
    def licensed(self) -> bool:
        """Whether the database has policies."""
        return self.edition == "timescale" and self.version >= OLDEST_VERSION


def observe(connection: Connection, desired: DesiredFeatures) -> ObservedFeatures:
    """Return what the database has and does with the readings."""
    return observe_each(connection, [desired])[desired.schema]


def observe_each(connection: Connection, desired: Sequence[DesiredFeatures]) -> dict[str, ObservedFeatures]:
    """Return the same of each of these schemas, in as many statements as for one."""
    schemas = [one.schema for one in desired]
    with mapped_errors():
        database = connection.execute(sql.DATABASE).fetchone() or {}
        edition = database["license"] or None
        version = _version(database["timescaledb_version"] or "")
        base = ObservedFeatures(edition if version else None, version)
        if not version:
            return dict.fromkeys(schemas, base)
        if not base.licensed:
            expired = _expired(connection, desired)
            return {schema: replace(base, expired=tuple(expired.get(schema, ()))) for schema in schemas}
        policies = _policies(connection, schemas)
        compressed_by = _compressed_by(connection, schemas)
        found = rollups.observe_each(connection, schemas)
    return {
        schema: replace(
            base,
            retention=policies.get((schema, "policy_retention")),
            compression=policies.get((schema, "policy_compression")),
            compressed_by=compressed_by.get(schema),
            rollups=found[schema],
        )
        for schema in schemas
    }


def _version(text: str) -> tuple[int, ...]:
    """Return 2.19.3 as numbers; of 2.20.0-dev what comes before the first that is none."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _expired(connection: Connection, desired: Sequence[DesiredFeatures]) -> dict[str, list[datetime]]:
    kept = {one.schema: one.retention for one in desired if one.retention is not None}
    if not kept:
        return {}
    parameters = {
        "schemas": list(kept),
        "table": READINGS,
        "retentions": list(kept.values()),
        "limit": CHUNKS_AT_ONCE,
    }
    found: dict[str, list[datetime]] = {}
    for row in connection.execute(features_sql.EXPIRED, parameters):
        found.setdefault(row["schema"], []).append(row["range_end"])
    return found


def _policies(connection: Connection, schemas: Sequence[str]) -> dict[tuple[str, str], Policy]:
    rows = connection.execute(features_sql.POLICIES, {"schemas": schemas, "table": READINGS})
    return {
        (row["schema"], row["proc_name"]): Policy(
            row["drop_after"] if row["proc_name"] == "policy_retention" else row["compress_after"], row["scheduled"]
        )
        for row in rows
    }


def _compressed_by(connection: Connection, schemas: Sequence[str]) -> dict[str, tuple[str, str]]:
    rows = connection.execute(features_sql.COMPRESSION, {"schemas": schemas, "table": READINGS})
    # The catalog quotes what is a key word, such as time.
    return {row["schema"]: (row["segmentby"], (row["orderby"] or "").replace('"', "")) for row in rows}


def plan(desired: DesiredFeatures, observed: ObservedFeatures) -> list[Action]:
    """Return the steps from `observed` to `desired`, as far as the edition goes: see `lacking`."""
    if not observed.version:
        return []
    if not observed.licensed:
        return list(_expiry(desired, observed))
    wanted = dict.fromkeys(desired.rollups, desired.rollup_retention)
    # A rollup is filled before the readings below it are dropped or compressed.
    return [
        *rollups.plan(desired.schema, desired.measurements, wanted, observed.rollups),
        *_compression(desired, observed),
        *_retention(desired, observed),
    ]


def _expiry(desired: DesiredFeatures, observed: ObservedFeatures) -> Iterator[Action]:
    """Drop chunks here where the database has no policy for it; without a retention, nothing is ever expired."""
    if desired.retention is None or not observed.expired:
        return
    count, newest = len(observed.expired), max(observed.expired)
    yield Execute(
        f"drop {count} {'chunk' if count == 1 else 'chunks'} of {desired.schema}.{READINGS} older than"
        f" {durations.text(desired.retention)}: readings before {newest.astimezone(UTC):%Y-%m-%dT%H:%MZ}",
        features_sql.DROP_CHUNKS.format(
            table=policies.regclass(desired.schema, READINGS), before=pgsql.Literal(newest.astimezone(UTC).isoformat())
        ),
        risk="These readings are gone for good.",
        upkeep=True,
    )


def lacking(desired: DesiredFeatures, observed: ObservedFeatures) -> list[str]:
    """Return what is asked for in vain here, with the consequence and the remedy."""
    if observed.licensed or not observed.version:
        return []
    if observed.edition == "timescale":
        wanted = ".".join(map(str, OLDEST_VERSION))
        why, remedy = f"this version of TimescaleDB is older than {wanted}", "Upgrade it"
    else:
        why = f"the database runs TimescaleDB's {observed.edition} edition"
        remedy = "Set timescaledb.license = 'timescale' on a server that has it"
    messages = []
    if desired.compress_after is not None:
        messages.append(
            f"spec.timescale.compressAfter has no effect: {why}, which does not compress. Readings stay as they are."
            f" {remedy}, or remove the field."
        )
    if desired.rollups:
        messages.append(
            f"spec.timescale.rollups have no effect: {why}, which has no continuous aggregates. Queries are answered"
            f" from the readings, with the same numbers. {remedy}, or remove the field."
        )
    return messages


def _retention(desired: DesiredFeatures, observed: ObservedFeatures) -> Iterator[Action]:
    risk = "Readings older than that are gone for good."
    yield from policies.retention(desired.schema, READINGS, desired.retention, observed.retention, risk=risk)


def _compression(desired: DesiredFeatures, observed: ObservedFeatures) -> Iterator[Action]:
    is_columnstore = observed.version >= COLUMNSTORE_VERSION
    table = policies.regclass(desired.schema, READINGS)
    after = pgsql.Literal(desired.compress_after)
    if desired.compress_after is not None and observed.compressed_by != (SEGMENT_BY, ORDER_BY):
        enable = features_sql.ENABLE_COLUMNSTORE if is_columnstore else features_sql.ENABLE_COMPRESSION
        yield Execute(
            f"let chunks of {desired.schema}.{READINGS} be compressed by {SEGMENT_BY}, in order of {ORDER_BY}",
            enable.format(table=pgsql.Identifier(desired.schema, READINGS)),
        )
    add = features_sql.ADD_COLUMNSTORE if is_columnstore else features_sql.ADD_COMPRESSION
    remove = features_sql.REMOVE_COLUMNSTORE if is_columnstore else features_sql.REMOVE_COMPRESSION
    yield from policies.plan(
        f"compresses chunks of {desired.schema}.{READINGS}",
        desired.compress_after,
        observed.compression,
        add.format(table=table, after=after),
        remove.format(table=table),
    )


def apply(connection: Connection, schema: str, action: Action) -> None:
    """Execute a statement in a transaction of its own, so that it holds no locks while others run."""
    if isinstance(action, Execute):
        with mapped_errors(), connection.transaction():
            connection.execute(sql.LOCK_SCHEMA.format(schema=pgsql.Literal(schema)))
            connection.execute(action.statement)


def summary(desired: DesiredFeatures) -> str:
    """Return in words what is kept in force; a message of the condition FeaturesReady."""
    parts = [
        f"retention {durations.text(desired.retention)}" if desired.retention else "",
        f"compression after {durations.text(desired.compress_after)}" if desired.compress_after else "",
        f"rollups of {', '.join(durations.text(interval) for interval in desired.rollups)}" if desired.rollups else "",
    ]
    asked = ", ".join(part for part in parts if part)
    return f"In force: {asked}." if asked else "No retention, compression or rollups are asked for."
