"""Which columns a person sees of readings, averages and sensors."""

from collections.abc import Iterable, Sequence
from functools import partial

from sensorlog.measurements import Measurement
from sensorlog.timestamps import TimestampUnit
from sensorlog_cli.moments import show
from sensorlog_cli.output import Column, Row, number

_FIRST = ("temperature", "cpu")
"""The measurements that come first where no resource says the order."""

_PARTS = {
    "averages": "avg",
    "minimums": "min",
    "maximums": "max",
    "firsts": "first",
    "lasts": "last",
    "latest": "latest",
}
"""What a row may tell of a bucket, and how a person reads it."""


def sensors(_rows: Sequence[Row]) -> list[Column]:
    """Return the columns of sensors."""
    return [
        Column("id", lambda row: str(row["id"]), right=True),
        Column("type", lambda row: str(row["type"])),
        Column("location", lambda row: str(row["location"])),
    ]


def readings(rows: Sequence[Row], *, unit: TimestampUnit, measurements: Sequence[Measurement] | None) -> list[Column]:
    """Return the columns of readings: the declared measurements with their units, else those that occur."""
    named = [name for row in rows for name in row if name not in ("ts", "sensor_id")]
    columns = [Column("time (UTC)", lambda row: show(row["ts"], unit)), _SENSOR]
    for name, header in _headers(named, measurements):
        columns.append(Column(header, partial(_value, name), right=True))
    return columns


def averages(rows: Sequence[Row], *, unit: TimestampUnit, measurements: Sequence[Measurement] | None) -> list[Column]:
    """Return the columns of averages per bucket, with those of further aggregates where rows have them."""
    columns = [Column("bucket from (UTC)", lambda row: show(row["period"], unit))]
    if any("sensor_id" in row for row in rows):
        columns.append(_SENSOR)
    columns.append(Column("readings", lambda row: str(row["count"]), right=True))
    for part, title in _PARTS.items():
        if any(part in row for row in rows):
            named = [name for row in rows for name in row.get(part, ())]
            columns += [
                Column(f"{title} {header}", partial(_part_value, part, name), right=True)
                for name, header in _headers(named, measurements)
            ]
    return columns


_SENSOR = Column("sensor", lambda row: str(row["sensor_id"]), right=True)


def _value(name: str, row: Row) -> str:
    return number(row.get(name))


def _part_value(part: str, name: str, row: Row) -> str:
    return number(row.get(part, {}).get(name))


def _headers(named: Iterable[str], measurements: Sequence[Measurement] | None) -> list[tuple[str, str]]:
    """Return (name, header) of each measurement: as declared, then any that only occur."""
    declared = {m.name: f"{m.name} [{m.unit}]" if m.unit else m.name for m in measurements or ()}
    others = set(named) - declared.keys()
    first = [name for name in _FIRST if name in others]
    return [*declared.items(), *((name, name) for name in [*first, *sorted(others - set(first))])]
