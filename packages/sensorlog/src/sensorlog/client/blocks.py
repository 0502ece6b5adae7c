"""Exported readings as columns of numpy.

protobuf hands a packed field over as one copy of its memory (`__array__`): 0.01 ms for 32,768 values, against 1.4 ms
by `np.fromiter`; parsing the message of 1 MiB around it takes 0.03 ms.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import TimestampUnit

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Readings as columns of equal length: element i of each belongs to reading i. NaN stands for NULL.

    `ts` is in `unit` since 1970-01-01 UTC.
    """

    ts: Integers
    sensor_id: Integers
    columns: Mapping[str, Floats]
    unit: TimestampUnit

    def __len__(self) -> int:
        return len(self.ts)

    def __getitem__(self, rows: slice) -> "Block":
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Block(self.ts[rows], self.sensor_id[rows], columns, self.unit)

    @property
    def time(self) -> NDArray[np.datetime64]:
        """`ts` as datetime64 of the pipeline's unit, in UTC; the same memory."""
        return self.ts.view(f"datetime64[{self.unit}]")


def block_of(message: pb.ExportSensorDataReply, unit: TimestampUnit) -> Block:
    """Return a message's columns."""
    columns = {column.name: _array(column.values, np.float64) for column in message.columns}
    return Block(_array(message.ts, np.int64), _array(message.sensor_id, np.int64), columns, unit)


def joined(blocks: Sequence[Block]) -> Block:
    """Return the readings of `blocks`, of which there is at least one, as one block."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return Block(
        np.concatenate([block.ts for block in blocks]),
        np.concatenate([block.sensor_id for block in blocks]),
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in first.columns},
        first.unit,
    )


def empty(measurements: Iterable[str], unit: TimestampUnit) -> Block:
    """Return a block without readings."""
    none = np.empty(0, np.int64)
    return Block(none, none, {name: np.empty(0, np.float64) for name in measurements}, unit)


def whole_moments(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield ordered readings in other blocks, none of which ends within a moment.

    The readings of the last `ts` seen are held back until the next one, or the end, shows that there are no more of
    them. So what was yielded is all there is up to its last `ts`, wherever the stream breaks.
    """
    held: list[Block] = []
    for block in blocks:
        if not len(block):
            continue
        cut = int(np.searchsorted(block.ts, block.ts[-1]))
        if held and (cut or held[-1].ts[-1] != block.ts[-1]):
            yield joined([*held, block[:cut]] if cut else held)
            held = []
        elif cut:
            yield block[:cut]
        held.append(block[cut:])
    if held:
        yield joined(held)


def _array(values: Any, kind: type[np.generic]) -> NDArray[Any]:
    return np.asarray(values, dtype=kind)
