"""The types that a pipeline's messages are decoded into, built from its measurements."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]


class Sensor(msgspec.Struct, frozen=True, gc=False):
    """A message of the topic of sensors."""

    id: Int64
    type: str | None = None
    location: str | None = None


def column(measurement: int) -> str:
    """Return the attribute of the measurement's value; its own name might not be a valid attribute."""
    return f"m{measurement}"


def reading_type(measurements: Sequence[str]) -> type[Any]:
    """Return a Struct with `ts`, `sensor_id` and m0.. for the measurements, which are missing as NaN, null as None.

    Unknown fields are skipped by msgspec without being decoded.
    """
    names = {column(i): name for i, name in enumerate(measurements)}
    optional = [(attribute, float | None, math.nan) for attribute in names]
    return msgspec.defstruct(
        "Reading",
        [("ts", Int64), ("sensor_id", Int64), *optional],
        rename=names,
        gc=False,  # holds numbers only: nothing that could form a cycle
    )
