"""Where a watch stands, as a token too, and what waits for a watcher who reads slowly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog_query.errors import InvalidArgumentError, UnavailableError
from sensorlog_query.packed_rows import row_type
from sensorlog_query.watching_buffer import MAX_ENTRIES, Buffer, Entry, Reason
from sensorlog_query.watching_position import Batch, Position, decode, encode

XIDS = st.integers(1, 200)


def batch(xid: int) -> Batch:
    """Return a batch of 10 readings that says its id in its times."""
    return Batch(xid=xid, committed_us=xid, rows=10, first_us=xid * 100, last_us=xid * 100 + 50)


def readings(count: int = 10) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """Return so many readings of two measurements."""
    return np.zeros(count, row_type(2))


@given(committed=st.sets(XIDS), running=st.sets(XIDS, min_size=1))
def test_position_has_what_was_committed_and_nothing_that_still_runs(committed: set[int], running: set[int]) -> None:
    """Whatever the order: a batch that is committed after the look is never taken for seen."""
    committed -= running
    position = Position().after_look(map(batch, committed), xmin=min(running), now_us=1)
    assert {xid for xid in committed | running if position.has(xid)} == committed


@given(seen=st.sets(XIDS), xmin=XIDS)
def test_floor_is_never_above_the_newest_batch(seen: set[int], xmin: int) -> None:
    """An id above it may be given again after a failover, and that batch must count as new."""
    position = Position().after_look(map(batch, seen), xmin=xmin, now_us=1)
    assert not position.has(max(seen, default=0) + 1)


@given(one=st.sets(XIDS), other=st.sets(XIDS), xmins=st.tuples(XIDS, XIDS))
def test_joined_positions_have_what_either_has(one: set[int], other: set[int], xmins: tuple[int, int]) -> None:
    """A server may be behind what a token says, or ahead of it."""
    first = Position().after_look(map(batch, one), xmin=xmins[0], now_us=1)
    second = Position().after_look(map(batch, other), xmin=xmins[1], now_us=2)
    joined = first.joined(second)
    assert all(joined.has(xid) == (first.has(xid) or second.has(xid)) for xid in range(300))
    assert joined.told_us == 2


@given(seen=st.sets(st.integers(1, 2**62), max_size=50), floor=st.integers(0, 2**40))
def test_token_says_the_position(seen: set[int], floor: int) -> None:
    """Whole, ids of 64 bits too."""
    position = Position(floor, frozenset(xid for xid in seen if xid >= floor), 7, 8, 9)
    assert decode(encode(position, "plant"), "plant") == position


def test_token_stays_short_behind_a_long_transaction() -> None:
    """An hour of batches above the floor takes a few hundred bytes."""
    position = Position(1_000_000, frozenset(range(1_000_000, 1_014_400)), 1_014_399, 8, 9)
    assert len(encode(position, "plant")) < 500


@pytest.mark.parametrize(
    "change", [lambda t: t[:-4] + "AAAA", lambda t: t[: len(t) // 2], lambda _: "x", lambda t: t * 2]
)
def test_damaged_token_is_refused(change) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """With the field's name."""
    with pytest.raises(InvalidArgumentError, match="resume_token"):
        decode(change(encode(Position(1, frozenset({5}), 5, 6, 7), "plant")), "plant")


def test_buffer_gives_what_it_was_given_in_order() -> None:
    """With the position after each."""
    buffer = Buffer(100)
    for xid in (1, 2):
        buffer.put(readings(), batch(xid), Position(xid))
    assert [(entry.position.floor, len(entry.readings)) for entry in (buffer.take(0), buffer.take(0))] == [  # type: ignore[union-attr, arg-type]
        (1, 10),
        (2, 10),
    ]


def test_what_does_not_fit_is_told_in_one_range_after_what_did() -> None:
    """Then it goes on as soon as there is room."""
    buffer = Buffer(25)
    for xid in (1, 2, 3, 4):
        buffer.put(readings(), batch(xid), Position(xid))
    assert [buffer.take(0), buffer.take(0)]
    buffer.put(readings(), batch(5), Position(5))
    told = buffer.take(0)
    assert told is not None
    assert told.missed is not None
    assert told.position == Position(4)
    assert (told.missed.reason, told.missed.first_us, told.missed.last_us, told.missed.count) == (
        Reason.SLOW_READER,
        300,
        450,
        20,
    )
    last = buffer.take(0)
    assert last is not None
    assert last.position == Position(5)


def test_batch_larger_than_the_buffer_is_given_where_nothing_waits() -> None:
    """Otherwise a pipeline with large batches could never be watched."""
    buffer = Buffer(5)
    buffer.put(readings(50), batch(1), Position(1))
    entry = buffer.take(0)
    assert entry is not None
    assert entry.readings is not None
    assert len(entry.readings) == 50


def test_many_small_batches_are_bounded_too() -> None:
    """They cost memory for themselves."""
    buffer = Buffer(10 * MAX_ENTRIES)
    for xid in range(1, MAX_ENTRIES + 10):
        buffer.put(readings(1), batch(xid), Position(xid))
    entries = [buffer.take(0) for _ in range(MAX_ENTRIES + 1)]
    assert entries[-1] is not None
    assert entries[-1].missed is not None
    assert entries[-1].missed.count == 9


def test_heartbeat_never_says_more_than_was_taken() -> None:
    """What waits may still be lost with the connection."""
    buffer = Buffer(100)
    assert buffer.take(0) is None
    buffer.put(readings(), batch(1), Position(1))
    buffer.advance(Position(2))
    first, heartbeat = buffer.take(0), buffer.take(0)
    assert first is not None
    assert heartbeat is not None
    assert (first.position, heartbeat.position, heartbeat.readings) == (Position(2), Position(2), None)


def test_entries_say_how_old_the_data_were_that_they_were_found_in() -> None:
    """The last one, and what follows when nothing waits, stand where the last look ended: they are as old as that."""
    buffer = Buffer(100)
    for age, xid in ((700, 1), (800, 2)):
        buffer.date(age)
        buffer.put(readings(), batch(xid), Position(xid))
    buffer.date(900)
    buffer.advance(Position(3))
    assert [(buffer.take(0) or Entry(Position())).staleness for _ in range(3)] == [700, 900, 900]


def test_what_waits_is_given_before_the_end() -> None:
    """A watch that ends with the server has told everything that was ready."""
    buffer = Buffer(100)
    buffer.put(readings(), batch(1), Position(1))
    buffer.end(UnavailableError("gone"))
    assert buffer.take(0) is not None
    with pytest.raises(UnavailableError):
        buffer.take(0)
