"""Rollups: continuous aggregates whose shape `sensorlog.rollups` says, each with a policy that refreshes it.

A rollup that lacks a measurement is made again: nothing is lost, because it holds nothing that the readings do not.
Queries are answered from the readings until it is filled. Continuous aggregates of other names are left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql as pgsql

from sensorlog import durations
from sensorlog import rollups as shape
from sensorlog.rollups import Partial
from sensorlog_operator import features_sql, policies
from sensorlog_operator.connections import Connection
from sensorlog_operator.plans import Action
from sensorlog_operator.policies import Policy
from sensorlog_operator.schema import READINGS, Execute

LONGEST_SCHEDULE = timedelta(hours=1)
"""Between refreshes; until then, queries compute what is new from the readings."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """How a rollup is refreshed: up to `end_offset` before now, every `schedule`, readings of any age or not."""

    end_offset: timedelta | None
    schedule: timedelta
    from_the_beginning: bool = True
    scheduled: bool = True


@dataclass(frozen=True, slots=True)
class ObservedRollup:
    """A rollup that there is."""

    interval: timedelta
    columns: frozenset[str]
    refresh: Refresh | None
    materialized_only: bool = True
    retention: Policy | None = None


def refresh_of(interval: timedelta) -> Refresh:
    """Return how a rollup of `interval` is refreshed: whole buckets only, and soon after they are over."""
    return Refresh(end_offset=interval, schedule=min(interval, LONGEST_SCHEDULE))


def observe_each(connection: Connection, schemas: Sequence[str]) -> dict[str, tuple[ObservedRollup, ...]]:
    """Return the rollups of the readings of each of `schemas`."""
    found: dict[str, dict[timedelta, ObservedRollup]] = {schema: {} for schema in schemas}
    for row in connection.execute(features_sql.ROLLUPS, {"schemas": schemas, "table": READINGS}):
        rollups, interval = found[row["schema"]], shape.interval_of(row["view_name"])
        if interval is None or interval in rollups:
            continue
        refresh = Refresh(row["end_offset"], row["schedule_interval"], row["from_the_beginning"], row["scheduled"])
        rollups[interval] = ObservedRollup(
            interval,
            frozenset(row["columns"]),
            refresh if row["has_policy"] else None,
            row["materialized_only"],
            Policy(row["drop_after"], row["drop_scheduled"]) if row["has_retention"] else None,
        )
    return {schema: tuple(rollups.values()) for schema, rollups in found.items()}


def plan(
    schema: str,
    measurements: tuple[str, ...],
    wanted: Mapping[timedelta, timedelta | None],
    observed: Sequence[ObservedRollup],
) -> Iterator[Action]:
    """Yield the steps from the rollups that there are to the intervals that are wanted, each with its retention."""
    existing = {rollup.interval: rollup for rollup in observed}
    for interval in sorted(existing.keys() - wanted.keys()):
        yield _drop(schema, interval)
    for interval, keep_for in wanted.items():
        found = existing.get(interval)
        if found is not None and not shape.columns(measurements) <= found.columns:
            yield _drop(schema, interval, f", which lacks {_lacking(measurements, found)}, to make it again")
            found = None
        if found is None:
            yield _create(schema, measurements, interval)
            found = ObservedRollup(interval, frozenset(), None)
        yield from _upkeep(schema, found)
        yield from policies.retention(schema, shape.name(interval), keep_for, found.retention)


def _lacking(measurements: tuple[str, ...], found: ObservedRollup) -> str:
    lacking = [name for name in measurements if not shape.columns((name,)) <= found.columns]
    return ", ".join(lacking) or "a column"


def _drop(schema: str, interval: timedelta, why: str = "") -> Execute:
    name = shape.name(interval)
    view = pgsql.Identifier(schema, name)
    return Execute(f"drop rollup {schema}.{name}{why}", features_sql.DROP_ROLLUP.format(view=view))


def _create(schema: str, measurements: tuple[str, ...], interval: timedelta) -> Execute:
    name = shape.name(interval)
    return Execute(
        f"create rollup {schema}.{name} of {', '.join(measurements)}, to be filled in the background",
        features_sql.CREATE_ROLLUP.format(
            view=pgsql.Identifier(schema, name),
            interval=pgsql.Literal(interval),
            time=pgsql.Identifier("time"),
            bucket=pgsql.Identifier(shape.BUCKET),
            sensor=pgsql.Identifier(shape.SENSOR),
            readings=pgsql.Identifier(shape.READINGS),
            partials=pgsql.SQL(", ").join(_partials(measurements)),
            table=pgsql.Identifier(schema, READINGS),
        ),
    )


# Of readings of one sensor at one moment, the first is the smallest and the last the largest, as in every query.
_EXPRESSIONS = {
    Partial.COUNT: pgsql.SQL("count({m})"),
    Partial.SUM: pgsql.SQL("sum({m})"),
    Partial.MINIMUM: pgsql.SQL("min({m})"),
    Partial.MAXIMUM: pgsql.SQL("max({m})"),
    Partial.FIRST: pgsql.SQL("first({m}, ROW({time}, {m})) FILTER (WHERE {m} IS NOT NULL)"),
    Partial.FIRST_TIME: pgsql.SQL("min({time}) FILTER (WHERE {m} IS NOT NULL)"),
    Partial.LAST: pgsql.SQL("last({m}, ROW({time}, {m})) FILTER (WHERE {m} IS NOT NULL)"),
    Partial.LAST_TIME: pgsql.SQL("max({time}) FILTER (WHERE {m} IS NOT NULL)"),
}


def _partials(measurements: tuple[str, ...]) -> Iterator[pgsql.Composed]:
    time = pgsql.Identifier("time")
    for measurement in measurements:
        for partial, expression in _EXPRESSIONS.items():
            value = expression.format(m=pgsql.Identifier(measurement), time=time)
            yield pgsql.SQL("{} AS {}").format(value, pgsql.Identifier(shape.column(measurement, partial)))


def _upkeep(schema: str, found: ObservedRollup) -> Iterator[Action]:
    """Keep a rollup that is there as it should be."""
    name = shape.name(found.interval)
    wanted = refresh_of(found.interval)
    if not found.materialized_only:
        view = pgsql.Identifier(schema, name)
        yield Execute(
            f"let rollup {schema}.{name} hold whole buckets only", features_sql.MATERIALIZED_ONLY.format(view=view)
        )
    if found.refresh == wanted:
        return
    view_name = policies.regclass(schema, name)
    add = features_sql.ADD_REFRESH.format(
        view=view_name, end_offset=pgsql.Literal(wanted.end_offset), schedule=pgsql.Literal(wanted.schedule)
    )
    remove = features_sql.REMOVE_REFRESH.format(view=view_name)
    yield Execute(
        f"refresh rollup {schema}.{name} every {durations.text(wanted.schedule)}",
        add if found.refresh is None else pgsql.SQL("; ").join([remove, add]),
    )
