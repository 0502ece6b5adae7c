"""Policies of TimescaleDB that go by the age of readings. None can be altered: another age is another policy."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql as pgsql

from sensorlog import durations
from sensorlog_operator import features_sql
from sensorlog_operator.plans import Action
from sensorlog_operator.schema import Execute


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that there is. `after` is None where it does not go by the age of readings."""

    after: timedelta | None
    scheduled: bool = True


def plan(
    what: str,
    wanted: timedelta | None,
    found: Policy | None,
    add: pgsql.Composed,
    remove: pgsql.Composed,
    *,
    risk: str = "",
) -> Iterator[Action]:
    """Yield what makes of the policy that was found the one that is wanted; `what` says what it does."""
    if wanted is None:
        if found is not None:
            yield Execute(f"remove the policy that {what}", remove)
    elif found is None:
        yield Execute(f"add a policy that {what} older than {durations.text(wanted)}", add, risk=risk)
    elif found != Policy(wanted):
        before = "paused" if found.after == wanted else f"not {_age(found.after)}"
        yield Execute(
            f"set the policy that {what} to those older than {durations.text(wanted)}, {before}",
            pgsql.SQL("; ").join([remove, add]),
            risk=risk,
        )


def retention(
    schema: str, name: str, wanted: timedelta | None, found: Policy | None, *, risk: str = ""
) -> Iterator[Action]:
    """Yield what makes of a retention policy of a hypertable or rollup the one that is wanted."""
    table = regclass(schema, name)
    yield from plan(
        f"drops chunks of {schema}.{name}",
        wanted,
        found,
        features_sql.ADD_RETENTION.format(table=table, after=pgsql.Literal(wanted)),
        features_sql.REMOVE_RETENTION.format(table=table),
        risk=risk,
    )


def _age(after: timedelta | None) -> str:
    return "another rule" if after is None else durations.text(after)


def regclass(schema: str, name: str) -> pgsql.Literal:
    """Return a relation as functions of TimescaleDB take it: its quoted name as a text."""
    return pgsql.Literal(pgsql.Identifier(schema, name).as_string())
