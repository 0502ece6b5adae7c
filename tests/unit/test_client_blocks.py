"""Blocks end with whole moments, whatever the messages look like."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.client.arrow import record_batch, table
from sensorlog.client.blocks import Block, block_of, empty, joined, whole_moments
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import TimestampUnit

NAN = float("nan")


def _block(ts: Sequence[int], unit: TimestampUnit = "s") -> Block:
    count = len(ts)
    return Block(np.array(ts, np.int64), np.arange(count), {"cpu": np.arange(count, dtype=np.float64)}, unit)


@given(
    st.lists(st.integers(0, 6), max_size=40).map(sorted),
    st.lists(st.integers(0, 40), max_size=8),
    st.integers(0, 8),
)
def test_a_break_leaves_whole_moments_only(ts: list[int], cuts: list[int], broken_after: int) -> None:
    """Wherever messages are cut, and after however many of them the stream breaks."""
    edges = [0, *sorted(min(cut, len(ts)) for cut in cuts), len(ts)]
    messages = [_block(ts)[low:high] for low, high in itertools.pairwise(edges)]

    blocks: list[Block] = []
    complete = broken_after >= len(messages)

    def breaking() -> Iterator[Block]:
        yield from messages[:broken_after]
        if not complete:
            raise ConnectionError

    with contextlib.suppress(ConnectionError):
        blocks.extend(whole_moments(breaking()))  # what came before the error counts
    came = [int(each) for block in blocks for each in block.ts]
    assert all(len(block) for block in blocks)
    assert came == (ts if complete else [each for each in ts if came and each <= came[-1]])


def test_one_long_moment_is_one_block() -> None:
    """Also when it fills several messages."""
    blocks = list(whole_moments([_block([1, 2]), _block([2, 2]), _block([2]), _block([3])]))
    assert [block.ts.tolist() for block in blocks] == [[1], [2, 2, 2, 2], [3]]


def test_a_message_becomes_columns() -> None:
    """Bit for bit, NaN included."""
    message = pb.ExportSensorDataReply(
        ts=[-1, 2**62], sensor_id=[-3, 2**63 - 1], columns=[pb.Column(name="cpu", values=[NAN, 5e-324])]
    )
    block = block_of(pb.ExportSensorDataReply.FromString(message.SerializeToString()), "ns")
    assert block.ts.tolist() == [-1, 2**62]
    assert block.sensor_id.tolist() == [-3, 2**63 - 1]
    assert np.isnan(block.columns["cpu"][0])
    assert block.columns["cpu"][1] == 5e-324


@pytest.mark.parametrize(("unit", "ts"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_time_is_the_same_moment_in_every_unit(unit: TimestampUnit, ts: int) -> None:
    """In numpy and in Arrow."""
    block = _block([ts], unit)
    assert block.time[0] == np.datetime64("1970-01-01T00:00:01")
    column = record_batch(block).column("time")
    assert column.type == pa.timestamp(unit, "UTC")
    assert column.cast(pa.int64()).to_pylist() == [ts]


def test_nan_is_null_in_arrow() -> None:
    """And no other value is."""
    block = Block(np.array([1, 2]), np.array([1, 1]), {"cpu": np.array([NAN, 0.0])}, "s")
    assert table([block, block]).column("cpu").to_pylist() == [None, 0.0, None, 0.0]


def test_arrow_shares_the_memory_of_numpy() -> None:
    """Values are not copied on the way; only the bitmap of NULLs is made."""
    block = Block(np.array([1]), np.array([1]), {"cpu": np.array([1.0])}, "s")
    batch = record_batch(block)
    for column, values in ((batch.column("time"), block.ts), (batch.column("cpu"), block.columns["cpu"])):
        assert column.buffers()[1].address == values.ctypes.data


def test_no_readings_still_have_columns() -> None:
    """So that a file of none has a header."""
    nothing = joined([empty(["cpu"], "ms")])
    assert len(nothing) == 0
    assert record_batch(nothing).schema.names == ["time", "sensor_id", "cpu"]
