"""Readings as one value: the database puts the rows of an answer into a bytea, which is read as an array.

Neither libpq nor Python then handles single values. A row is (time, sensor_id, measurement...), 8 bytes each, as
PostgreSQL sends these types in its binary format; `sql.PACKED` makes it. Its order of bytes is changed to the
machine's at once for all columns: what is done with them costs several times as much in the other order.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sensorlog.timestamps import POSTGRES_EPOCH_US
from sensorlog_query.copy_binary import FIELD_BYTES, INTEGER, Block
from sensorlog_query.microseconds import Moment

NULL = 0x7FF0_0000_0000_07A2
"""What stands for NULL: the bits of a NaN that no arithmetic yields. PostgreSQL's own NaN is another, and a value."""

KEY = 2
"""The columns before the measurements."""

NATIVE_INTEGER, NATIVE_FLOAT = np.dtype(np.int64), np.dtype(np.float64)


@cache
def row_type(measurements: int) -> np.dtype[np.void]:
    """Return the layout of a row, with the columns as fields `v0`, `v1`..."""
    columns = (NATIVE_INTEGER, NATIVE_INTEGER, *(NATIVE_FLOAT for _ in range(measurements)))
    return np.dtype([(f"v{i}", column) for i, column in enumerate(columns)])


def unpacked(value: bytes | None, measurements: int) -> Block:
    """Return the rows in a value that the database packed; None is what it makes of no rows."""
    return np.frombuffer(value or b"", INTEGER).astype(NATIVE_INTEGER).view(row_type(measurements))


def joined(parts: Sequence[Block], measurements: int) -> Block:
    """Return the rows of all parts."""
    return np.concatenate(parts) if parts else unpacked(None, measurements)


def nulls(block: Block) -> NDArray[np.bool_]:
    """Return which measurements are NULL, one row a reading and one column a measurement."""
    values: NDArray[np.int64] = block.view(NATIVE_INTEGER).reshape(len(block), columns(block))
    return np.equal(values[:, KEY:], NULL)


def columns(block: Block) -> int:
    """Return how many columns the rows have."""
    return block.dtype.itemsize // FIELD_BYTES


def last_key(block: Block) -> tuple[Moment, int]:
    """Return time and sensor_id of the last row."""
    return Moment(int(block["v0"][-1]) + POSTGRES_EPOCH_US), int(block["v1"][-1])


def trailing(block: Block) -> int:
    """Return how many rows at the end have the last row's time and sensor_id."""
    times, sensors = block["v0"], block["v1"]
    if len(block) > 1 and times[-2] != times[-1]:  # as nearly always
        return 1
    others = np.flatnonzero((times != times[-1]) | (sensors != sensors[-1]))
    return len(block) - 1 - int(others[-1]) if len(others) else len(block)
