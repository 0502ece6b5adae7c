"""Which columns a reading has besides time and sensor: names, units, limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

RESERVED = frozenset({"ts", "time", "sensor_id"})
"""Names that every reading has already."""

SYSTEM_COLUMNS = frozenset({"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"})
"""Names that PostgreSQL refuses, because each table has such columns. Source: its documentation, "System Columns"."""

NAME_PATTERN = r"^[a-z_][a-z0-9_]{0,62}$"
"""A PostgreSQL identifier that needs no quotes; 63 bytes is PostgreSQL's limit."""

MAX_MEASUREMENTS = 256
"""PostgreSQL allows 1600 columns; a reading this wide is a sign that it is several sensors."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]


class Measurement(BaseModel):
    """One measured quantity: a column of double precision.

    `unit` is a UCUM code for people and plots. A reading outside `min`..`max` (inclusive) is a dead letter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="Field of the message and column of the table.", examples=["temperature"])
    unit: str = Field(
        default="",
        max_length=32,
        description="UCUM code of the unit, shown to people.",
        examples=["Cel", "%"],
    )
    min: float | None = Field(
        default=None,
        description="Smallest accepted value; a reading below it is a dead letter.",
        examples=[-90],
    )
    max: float | None = Field(
        default=None,
        description="Largest accepted value; a reading above it is a dead letter.",
        examples=[200],
    )

    @model_validator(mode="after")
    def _check(self) -> "Measurement":
        if self.name in RESERVED:
            raise ValueError(f"{self.name!r} names a part of every reading; choose another name")
        if self.name in SYSTEM_COLUMNS:
            raise ValueError(f"{self.name!r} is a system column of PostgreSQL; choose another name")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


DEFAULT_MEASUREMENTS = (
    Measurement(name="temperature", unit="Cel", min=-90, max=200),
    Measurement(name="cpu", unit="%", min=0, max=100),
)
"""What a pipeline measures when its resource does not say."""


def names(measurements: tuple[Measurement, ...]) -> tuple[str, ...]:
    """Return the columns' names in declared order."""
    return tuple(m.name for m in measurements)
