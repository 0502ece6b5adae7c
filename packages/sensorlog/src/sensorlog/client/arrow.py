"""Blocks as Arrow: the same memory with a bitmap of what is null."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from sensorlog.client.blocks import Block
from sensorlog.timestamps import TimestampUnit


def schema(measurements: Iterable[str], unit: TimestampUnit) -> pa.Schema:
    """Return the columns: time, sensor_id, measurements."""
    fields = [
        pa.field("time", pa.timestamp(unit, "UTC"), nullable=False),
        pa.field("sensor_id", pa.int64(), nullable=False),
    ]
    return pa.schema([*fields, *(pa.field(name, pa.float64()) for name in measurements)])


def record_batch(block: Block) -> pa.RecordBatch:
    """Return the block's readings; NaN becomes null."""
    times = pa.array(block.ts).view(pa.timestamp(block.unit, "UTC"))
    values = [pa.array(column, from_pandas=True) for column in block.columns.values()]
    return pa.record_batch([times, pa.array(block.sensor_id), *values], schema=schema(block.columns, block.unit))


def table(blocks: Sequence[Block]) -> pa.Table:
    """Return the readings of `blocks`, of which there is at least one."""
    return pa.Table.from_batches([record_batch(block) for block in blocks])
