"""The TimescaleDB side of a pipeline: schema, tables, hypertable, index, ownership.

`observe` reads the catalogs, `plan` compares (pure), `apply` executes each action in one transaction of its own.
Ownership is the schema's COMMENT, so that two pipelines never write into one schema.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from psycopg import sql as pgsql

from sensorlog import rollups
from sensorlog_operator import sql
from sensorlog_operator.connections import Connection, mapped_errors
from sensorlog_operator.errors import Reason
from sensorlog_operator.plans import Action, Refusal

Edition = Literal["timescale", "apache"]

READINGS = "sensor_data"
INDEXES: Mapping[str, tuple[str, ...]] = {
    READINGS: ("sensor_id", "time DESC"),
    "dead_letters": ("received_at",),  # for who counts the latest
}
"""The index to have beside the primary key, by table."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogs spell it."""

    name: str
    type: str
    constraint: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table the pipeline needs; `primary_key` may be empty."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()


FIXED_TABLES = (
    Table(
        "sensors",
        (
            Column("id", "bigint", "NOT NULL"),
            Column("type", "text"),
            Column("location", "text"),
            Column("updated_at", "timestamp with time zone", "NOT NULL DEFAULT now()"),
        ),
        ("id",),
    ),
    Table(
        "ingest_offsets",
        (
            Column("topic", "text", "NOT NULL"),
            Column("partition", "integer", "NOT NULL"),
            Column("next_offset", "bigint", "NOT NULL"),
        ),
        ("topic", "partition"),
    ),
    Table(
        "dead_letters",
        (
            Column("topic", "text", "NOT NULL"),
            Column("partition", "integer", "NOT NULL"),
            Column("message_offset", "bigint", "NOT NULL"),
            Column("received_at", "timestamp with time zone", "NOT NULL DEFAULT now()"),
            Column("key", "bytea"),
            Column("value", "bytea"),
            Column("headers", "jsonb"),
            Column("reason", "text", "NOT NULL"),
            Column("detail", "text", "NOT NULL"),
        ),
        ("topic", "partition", "message_offset"),
    ),
    Table(
        "ingest_batches",
        (
            Column("xid", "xid8", "NOT NULL DEFAULT pg_current_xact_id()"),
            Column("committed_at", "timestamp with time zone", "NOT NULL DEFAULT clock_timestamp()"),
            Column("rows", "integer", "NOT NULL"),
            Column("first_time", "timestamp with time zone", "NOT NULL"),
            Column("last_time", "timestamp with time zone", "NOT NULL"),
        ),
        ("xid",),
    ),
    Table(
        "canaries",
        (
            Column("partition", "integer", "NOT NULL"),
            Column("token", "text", "NOT NULL"),
            Column("stored_at", "timestamp with time zone", "NOT NULL"),
        ),
        ("partition",),
    ),
)


def readings_table(measurements: Sequence[str]) -> Table:
    """Return the table of readings: time, sensor, and a column per measurement."""
    return Table(
        READINGS,
        (
            Column("time", "timestamp with time zone", "NOT NULL"),
            Column("sensor_id", "bigint", "NOT NULL"),
            *(Column(name, "double precision") for name in measurements),
        ),
    )


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a schema belongs to, as its COMMENT says. `cluster` is the uid of the kube-system namespace."""

    uid: str
    pipeline: str
    cluster: str

    def to_comment(self) -> str:
        """Return the COMMENT text."""
        return json.dumps({"sensorlog.dev/owner": asdict(self)}, sort_keys=True)

    @staticmethod
    def from_comment(comment: str | None) -> "Owner | None":
        """Return the owner a COMMENT names, None where it names none."""
        try:
            return Owner(**json.loads(comment or "")["sensorlog.dev/owner"])
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class DesiredSchema:
    """What the resource asks for. `live_uids` are the uids of all pipelines that exist now."""

    name: str
    owner: Owner
    measurements: tuple[str, ...]
    chunk_interval: timedelta
    live_uids: frozenset[str] = frozenset()

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables to have."""
        return (*FIXED_TABLES, readings_table(self.measurements))


@dataclass(frozen=True, slots=True)
class ObservedSchema:
    """What the database has. `tables` maps table to column to type, `indexes` table to column lists."""

    timescaledb_version: str | None
    timescaledb_available: bool
    edition: Edition | None
    exists: bool = False
    comment: str | None = None
    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    indexes: Mapping[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)
    primary_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    chunk_interval: timedelta | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all tables are there, whatever is to be said of their columns."""
        return self.chunk_interval is not None and self.tables.keys() >= {READINGS, *(t.name for t in FIXED_TABLES)}


@dataclass(frozen=True, slots=True)
class Execute(Action):
    """Run one statement."""

    statement: pgsql.SQL | pgsql.Composed

    @property
    def detail(self) -> str:
        """The statement, unless it holds what lets somebody in."""
        text = self.statement.as_string(None)
        return "" if "PASSWORD" in text.upper() else text.strip()


def observe(connection: Connection, schema: str) -> ObservedSchema:
    """Return what the database has of `schema`."""
    return observe_each(connection, [schema])[schema]


def observe_each(connection: Connection, schemas: Sequence[str]) -> dict[str, ObservedSchema]:
    """Return of each of `schemas` what the database has, in as many statements as for one."""
    with mapped_errors():
        database = connection.execute(sql.DATABASE).fetchone() or {}
        missing = ObservedSchema(
            database["timescaledb_version"], database["timescaledb_available"], database["license"] or None
        )
        comments = {row["schema"]: row["comment"] for row in connection.execute(sql.SCHEMAS, {"schemas": schemas})}
        if not comments:
            return dict.fromkeys(schemas, missing)
        existing = list(comments)
        tables, indexes = _tables(connection, existing), _indexes(connection, existing)
        intervals = _chunk_intervals(connection, existing) if missing.timescaledb_version else {}
    found = {
        schema: replace(
            missing,
            exists=True,
            comment=comment,
            tables=tables.get(schema, {}),
            chunk_interval=intervals.get(schema),
            **indexes.get(schema, _Indexes()).fields(),
        )
        for schema, comment in comments.items()
    }
    return {schema: found.get(schema, missing) for schema in schemas}


def _tables(connection: Connection, schemas: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in connection.execute(sql.COLUMNS, {"schemas": schemas}):
        found.setdefault(row["schema"], {}).setdefault(row["table_name"], {})[row["column_name"]] = row["type"]
    return found


@dataclass(slots=True)
class _Indexes:
    """The indexes of one schema's tables."""

    primary_keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    every: dict[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return what an ObservedSchema calls them."""
        return {"indexes": self.every, "primary_keys": self.primary_keys}


def _indexes(connection: Connection, schemas: Sequence[str]) -> dict[str, _Indexes]:
    found: dict[str, _Indexes] = {}
    for row in connection.execute(sql.INDEXES, {"schemas": schemas}):
        table, columns, indexes = row["table_name"], tuple(row["columns"]), found.setdefault(row["schema"], _Indexes())
        indexes.every[table] = indexes.every.get(table, frozenset()) | {columns}
        if row["is_primary"]:
            indexes.primary_keys[table] = columns
    return found


def _chunk_intervals(connection: Connection, schemas: Sequence[str]) -> dict[str, timedelta]:
    rows = connection.execute(sql.HYPERTABLES, {"schemas": schemas, "table": READINGS})
    return {row["schema"]: row["time_interval"] for row in rows}


def plan(desired: DesiredSchema, observed: ObservedSchema) -> list[Action]:
    """Return the steps from `observed` to `desired`, refusals among them."""
    if observed.timescaledb_version is None and not observed.timescaledb_available:
        return [
            Refusal(
                "The database has no TimescaleDB: install the timescaledb extension on the server and add it to"
                " shared_preload_libraries.",
                Reason.TIMESCALEDB_MISSING,
                blocking=True,
            )
        ]
    if refusals := [*_ownership_refusals(desired, observed), *_type_refusals(desired, observed)]:
        return list(refusals)
    return [
        *_extension(observed),
        *_schema(desired, observed),
        *_tables_and_columns(desired, observed),
        *_hypertable(desired, observed),
        *_index(desired, observed),
    ]


def _ownership_refusals(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Refusal]:
    owner = Owner.from_comment(observed.comment)
    if owner is None or owner.uid == desired.owner.uid:
        return
    same_name = (owner.cluster, owner.pipeline) == (desired.owner.cluster, desired.owner.pipeline)
    if same_name and owner.uid not in desired.live_uids:
        return  # the same pipeline, deleted with Retain and created again
    yield Refusal(
        f"Schema {desired.name!r} belongs to pipeline {owner.pipeline} (uid {owner.uid}). Choose another"
        " spec.timescale.schema; or, if that pipeline is gone for good, hand the schema over with"
        f' COMMENT ON SCHEMA "{desired.name}" IS NULL.',
        Reason.SCHEMA_OWNED_BY_ANOTHER,
        blocking=True,
    )


def _type_refusals(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Refusal]:
    for table in desired.tables:
        existing = observed.tables.get(table.name)
        if existing is None:
            continue
        for column in table.columns:
            if (actual := existing.get(column.name, column.type)) != column.type:
                yield Refusal(
                    f"Column {desired.name}.{table.name}.{column.name} has type {actual}, the pipeline needs"
                    f" {column.type}; the operator never changes a type. Rename the column or use another schema.",
                    Reason.SCHEMA_CONFLICT,
                    blocking=True,
                )
        if table.primary_key and observed.primary_keys.get(table.name) != table.primary_key:
            yield Refusal(
                f"Table {desired.name}.{table.name} lacks the primary key ({', '.join(table.primary_key)}) that"
                " exactly-once delivery rests on. Add it, or use another schema.",
                Reason.SCHEMA_CONFLICT,
                blocking=True,
            )


def _extension(observed: ObservedSchema) -> Iterator[Action]:
    if observed.timescaledb_version is None:
        yield Execute("create extension timescaledb", sql.CREATE_EXTENSION)


def _schema(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Action]:
    name = pgsql.Identifier(desired.name)
    if not observed.exists:
        yield Execute(f"create schema {desired.name}", sql.CREATE_SCHEMA.format(schema=name), creates=True)
    if Owner.from_comment(observed.comment) != desired.owner:
        yield Execute(
            f"mark schema {desired.name} as owned by {desired.owner.pipeline}",
            sql.COMMENT_ON_SCHEMA.format(schema=name, comment=pgsql.Literal(desired.owner.to_comment())),
        )


def _tables_and_columns(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Action]:
    for table in desired.tables:
        qualified = pgsql.Identifier(desired.name, table.name)
        existing = observed.tables.get(table.name)
        if existing is None:
            statement = _create_table(qualified, table)
            yield Execute(f"create table {desired.name}.{table.name}", statement, creates=True)
            continue
        for column in table.columns:
            if column.name not in existing:
                yield Execute(
                    f"add column {column.name} to {desired.name}.{table.name}",
                    sql.ADD_COLUMN.format(table=qualified, column=_column(column)),
                    creates=True,
                )


def _create_table(qualified: pgsql.Identifier, table: Table) -> pgsql.Composed:
    parts: list[pgsql.Composable] = [_column(column) for column in table.columns]
    if table.primary_key:
        key = pgsql.SQL(", ").join(pgsql.Identifier(name) for name in table.primary_key)
        parts.append(pgsql.SQL("PRIMARY KEY ({})").format(key))
    return sql.CREATE_TABLE.format(table=qualified, columns=pgsql.SQL(", ").join(parts))


def _column(column: Column) -> pgsql.Composed:
    # Types and constraints are constants of this module, names may come from the resource.
    definition = pgsql.SQL(f"{column.type} {column.constraint}".rstrip())
    return pgsql.SQL("{} {}").format(pgsql.Identifier(column.name), definition)


def _hypertable(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Action]:
    table = pgsql.Literal(pgsql.Identifier(desired.name, READINGS).as_string(None))
    interval = pgsql.Literal(desired.chunk_interval)
    if observed.chunk_interval is None:
        yield Execute(
            f"make {desired.name}.{READINGS} a hypertable with chunks of {desired.chunk_interval}",
            sql.CREATE_HYPERTABLE.format(table=table, interval=interval),
            risk="its rows are moved into chunks, and nobody can use the table meanwhile."
            if READINGS in observed.tables
            else "",
            creates=True,
        )
    elif observed.chunk_interval != desired.chunk_interval:
        yield Execute(
            f"set the chunk interval of {desired.name}.{READINGS} from {observed.chunk_interval} to"
            f" {desired.chunk_interval} (new chunks only)",
            sql.SET_CHUNK_INTERVAL.format(table=table, interval=interval),
        )


def _index(desired: DesiredSchema, observed: ObservedSchema) -> Iterator[Action]:
    for table, columns in INDEXES.items():
        if columns in observed.indexes.get(table, frozenset()):
            continue
        names = [column.removesuffix(" DESC") for column in columns]
        yield Execute(
            f"create index on {desired.name}.{table} ({', '.join(columns)})",
            sql.CREATE_INDEX.format(
                index=pgsql.Identifier("_".join((table, *names, "idx"))),
                table=pgsql.Identifier(desired.name, table),
                columns=pgsql.SQL(", ").join(map(_index_column, columns)),
            ),
        )


def _index_column(column: str) -> pgsql.Composed:
    name, _, order = column.partition(" ")
    return pgsql.SQL("{}" + (" DESC" if order else "")).format(pgsql.Identifier(name))


def apply(connection: Connection, schema: str, actions: Sequence[Action]) -> None:
    """Execute the statements among `actions` in one transaction: all of them happen, or none does."""
    statements = [action.statement for action in actions if isinstance(action, Execute)]
    if not statements:
        return
    with mapped_errors(), connection.transaction():
        connection.execute(sql.LOCK_SCHEMA.format(schema=pgsql.Literal(schema)))
        for statement in statements:
            connection.execute(statement)


def provision(connection: Connection, desired: DesiredSchema) -> list[Action]:
    """Observe, plan and apply; return what was planned, refusals among it."""
    actions = plan(desired, observe(connection, desired.name))
    apply(connection, desired.name, actions)
    return actions


def next_offsets(connection: Connection, schema: str, topic: str) -> dict[int, int]:
    """Return the offset of the first message of each partition that is not stored yet."""
    return next_offsets_of_each(connection, {schema: topic})[schema]


def next_offsets_of_each(connection: Connection, topics: Mapping[str, str]) -> dict[str, dict[int, int]]:
    """Return the same of each schema, in one statement. `topics` says of each which topic counts."""
    statement = sql.UNION_ALL.join(
        sql.NEXT_OFFSETS.format(
            schema=pgsql.Literal(schema), table=pgsql.Identifier(schema, "ingest_offsets"), topic=pgsql.Literal(topic)
        )
        for schema, topic in topics.items()
    )
    found: dict[str, dict[int, int]] = {schema: {} for schema in topics}
    with mapped_errors():
        for row in connection.execute(statement):
            found[row["schema"]][row["partition"]] = row["next_offset"]
    return found


def belongs(connection: Connection, schema: str, owner_uid: str) -> bool:
    """Return whether `schema` exists and belongs to `owner_uid`."""
    owner = Owner.from_comment(observe(connection, schema).comment)
    return owner is not None and owner.uid == owner_uid


def drop(connection: Connection, schema: str, owner_uid: str) -> bool:
    """Drop what the pipeline has in `schema` if it belongs to `owner_uid`; return whether it did.

    The schema goes too, unless others keep something in it: one that was adopted may have been theirs before.
    """
    if not belongs(connection, schema, owner_uid):
        return False
    tables, name = [*(table.name for table in FIXED_TABLES), READINGS], pgsql.Identifier(schema)
    with mapped_errors(), connection.transaction():
        others = {"schema": schema, "tables": tables, "rollups": rollups.PREFIX}
        if connection.execute(sql.STRANGERS, others).fetchone() is None:
            connection.execute(sql.DROP_SCHEMA.format(schema=name))
            return True
        for table in tables:
            connection.execute(sql.DROP_TABLE.format(table=pgsql.Identifier(schema, table)))
        connection.execute(sql.COMMENT_ON_SCHEMA.format(schema=name, comment=pgsql.NULL))
    return True
