"""What stands in the way of using a schema that somebody else made: looked at once, before it is marked as ours.

Tables of the right shape are adopted with their rows. What `schema` compares (types, primary keys) is not asked here.
"""

from collections.abc import Iterator, Mapping, Sequence

from sensorlog_operator import sql
from sensorlog_operator.connections import Connection, mapped_errors
from sensorlog_operator.errors import Reason
from sensorlog_operator.plans import Refusal
from sensorlog_operator.schema import READINGS, DesiredSchema, ObservedSchema, Owner, Table

KINDS: Mapping[str, str] = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "a partitioned table",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a type",
}
"""Of pg_class.relkind, what is no table. Source: PostgreSQL documentation, "pg_class"."""


def obstacles(connection: Connection, desired: DesiredSchema, observed: ObservedSchema) -> list[Refusal]:
    """Return what of a schema without an owner the pipeline cannot live with; nothing for any other schema."""
    if not observed.exists or Owner.from_comment(observed.comment):
        return []
    parameters = {"schema": desired.name, "tables": [table.name for table in desired.tables], "readings": READINGS}
    with mapped_errors():
        found = [
            *_no_tables(desired, connection.execute(sql.NO_TABLES, parameters).fetchall()),
            *_demanding(desired, connection.execute(sql.DEMANDED_COLUMNS, parameters).fetchall()),
        ]
        if observed.timescaledb_version:
            found += _dimensions(desired, connection.execute(sql.DIMENSIONS, parameters).fetchall())
    return found


def _no_tables(desired: DesiredSchema, rows: Sequence[Mapping[str, str]]) -> Iterator[Refusal]:
    for row in rows:
        yield _refusal(
            f"{desired.name}.{row['name']} is {KINDS.get(row['kind'], 'no table')}, and the pipeline needs an ordinary"
            " table of that name. Rename it, or use another schema."
        )


def _demanding(desired: DesiredSchema, rows: Sequence[Mapping[str, str]]) -> Iterator[Refusal]:
    tables: Mapping[str, Table] = {table.name: table for table in desired.tables}
    for row in rows:
        if row["column_name"] not in {column.name for column in tables[row["name"]].columns}:
            yield _refusal(
                f"Column {desired.name}.{row['name']}.{row['column_name']} must have a value, and the pipeline has none"
                " for it. Give it a default, drop its NOT NULL, or use another schema."
            )


def _dimensions(desired: DesiredSchema, rows: Sequence[Mapping[str, str]]) -> Iterator[Refusal]:
    for row in rows:
        if row["column_name"] != "time":
            yield _refusal(
                f"{desired.name}.{READINGS} is a hypertable by column {row['column_name']}, and the pipeline needs one"
                " by time. Use another schema."
            )


def _refusal(summary: str) -> Refusal:
    return Refusal(summary, Reason.SCHEMA_CONFLICT, blocking=True)
