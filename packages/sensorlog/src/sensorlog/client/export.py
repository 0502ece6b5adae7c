"""A whole range as columns: streamed, continued where a connection breaks, or gathered into one table."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from sensorlog.client.blocks import Block, block_of, empty, joined, whole_moments
from sensorlog.client.calls import Calls
from sensorlog.client.errors import CallError, ExportInterruptedError
from sensorlog.client.extras import require
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import TimestampUnit

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
"""Seconds between the end of a stream and its continuation; each pause is twice the one before."""

RESUMABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""Codes of a stream that can be continued. The service cancels one that is not read for long: it keeps others out."""

OnResumed = Callable[[int, CallError], None]
"""Hears from which `ts` on an export is continued, and why it had ended."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Readings with start <= ts < end, of `sensor_ids` or of all sensors where empty; `ts` in the pipeline's unit."""

    start: int | None = None
    end: int | None = None
    sensor_ids: tuple[int, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return the selection as the fields that every request of readings has."""
        return {"start_ts": self.start, "end_ts": self.end, "sensor_ids": self.sensor_ids}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an export may take in seconds, and how often in a row it is continued without getting any further."""

    timeout: float
    resumptions: int
    on_resumed: OnResumed | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """All readings of a range, in order of (time, sensor_id). Each iteration asks the service anew.

    Iterating yields Blocks of 1 MiB or less and holds not much more than one; a block never ends within a moment. The
    readings of one connection are one snapshot. Where the service goes away in between, the export is continued after
    the last whole moment, as `resumptions` and `on_resumed` of `Client.export` say.

    Iterating and all methods raise a CallError when nothing was yielded yet, ExportInterruptedError afterwards.
    """

    selection: Selection
    measurements: tuple[str, ...]
    unit: TimestampUnit
    patience: Patience
    _calls: Calls = field(repr=False)

    def __iter__(self) -> Iterator[Block]:
        return _Reader(self, self._calls).blocks()

    def to_numpy(self) -> Block:
        """Return everything as one block; its `ts`, `sensor_id` and `columns` are numpy arrays."""
        return joined(list(self) or [empty(self.measurements, self.unit)])

    def record_batches(self) -> "Iterator[pa.RecordBatch]":
        """Yield an Arrow batch for each block; MissingExtraError without pyarrow.

        Columns: time (timestamp of the pipeline's unit, UTC), sensor_id (int64), a float64 for each measurement,
        null where it is NULL.
        """
        require("pyarrow", "arrow")
        from sensorlog.client.arrow import record_batch  # noqa: PLC0415 -- needs pyarrow

        return map(record_batch, self)

    def to_arrow(self) -> "pa.Table":
        """Return everything as a pyarrow.Table with the columns of `record_batches`."""
        require("pyarrow", "arrow")
        from sensorlog.client.arrow import table  # noqa: PLC0415 -- needs pyarrow

        return table(list(self) or [empty(self.measurements, self.unit)])

    def to_pandas(self) -> "pd.DataFrame":
        """Return everything as a pandas.DataFrame: time (datetime64 of the unit, UTC), sensor_id, measurements.

        NULL is NaN. MissingExtraError without pandas.
        """
        pandas = require("pandas", "pandas")
        block = self.to_numpy()
        times = pandas.DatetimeIndex(block.time, tz="UTC")
        frame: pd.DataFrame = pandas.DataFrame({"time": times, "sensor_id": block.sensor_id, **block.columns})
        return frame


class _Reader:
    """Reads one export to its end, over as many streams as that takes."""

    def __init__(self, export: Export, calls: Calls) -> None:
        self._export = export
        self._calls = calls
        self._deadline = time.monotonic() + export.patience.timeout
        self._start = export.selection.start
        self._measurements = export.measurements
        self._last: tuple[int, int] | None = None
        self._rows = 0
        self._failures = 0

    def blocks(self) -> Iterator[Block]:
        """Yield whole moments."""
        while not self._is_complete():
            try:
                with closing(self._stream()) as stream:
                    for block in whole_moments(stream):
                        self._note(block)
                        yield block
            except CallError as e:
                if e.code not in RESUMABLE:
                    raise self._final(e) from e
                self._recover(e)
            else:
                return

    def _stream(self) -> Generator[Block]:
        export = self._export
        request = pb.ExportSensorDataReq(
            start_ts=self._start,
            end_ts=export.selection.end,
            sensor_ids=export.selection.sensor_ids,
            measurements=self._measurements,
        )
        remaining = max(0.0, self._deadline - time.monotonic())
        for message in self._calls.stream(self._calls.stub.ExportSensorData, request, remaining):
            yield block_of(message, export.unit)

    def _note(self, block: Block) -> None:
        self._last = int(block.ts[-1]), int(block.sensor_id[-1])
        self._start = self._last[0] + 1
        self._rows += len(block)
        self._measurements = tuple(block.columns)  # a continuation has the same, whatever is declared by then
        self._failures = 0

    def _is_complete(self) -> bool:
        """Return whether the moment after the last one is past the end, so that nothing is left to ask for."""
        end = self._export.selection.end
        return self._last is not None and end is not None and self._last[0] + 1 >= end

    def _recover(self, error: CallError) -> None:
        """Wait a little before the next stream; raise where it was enough, or nothing has come at all.

        The beginning of a stream is retried by gRPC like any other call.
        """
        self._failures += 1
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE)
        too_late = time.monotonic() + pause >= self._deadline
        if self._last is None or self._failures > self._export.patience.resumptions or too_late:
            raise self._final(error) from error
        if self._export.patience.on_resumed is not None:
            self._export.patience.on_resumed(self._last[0] + 1, error)
        time.sleep(pause)

    def _final(self, error: CallError) -> CallError | ExportInterruptedError:
        return error if self._last is None else ExportInterruptedError(error, *self._last, self._rows)
