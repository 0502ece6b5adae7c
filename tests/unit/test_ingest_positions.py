"""Positions: what is read next, what a batch has to store, and where a partition starts."""

import pytest

from sensorlog_ingest.batches import Advance
from sensorlog_ingest.messages import Partition
from sensorlog_ingest.positions import Positions, Start, start_of
from support.messages import FakeMessage

ZERO, ONE = Partition("t", 0), Partition("t", 1)


def message(offset: int, partition: int = 0) -> FakeMessage:
    """Return a message at an offset."""
    return FakeMessage(b"{}", the_topic="t", the_partition=partition, the_offset=offset)


def offsets(messages: list[FakeMessage], positions: Positions) -> list[int | None]:
    """Return the offsets of the messages that are taken."""
    return [taken.offset() for taken in positions.take(messages)]


def test_partition_waits_until_its_position_is_known() -> None:
    """Messages that come before are left out: they will be read again from the right place."""
    positions = Positions()
    positions.assign([ZERO])
    assert offsets([message(0)], positions) == []
    positions.set(ZERO, stored=5, next_offset=5)
    assert positions.waiting == set()
    assert offsets([message(4), message(5), message(6)], positions) == [5, 6]


def test_gaps_are_passed_and_repetitions_left_out() -> None:
    """Compaction and transactions leave gaps; an offset below the position was read already."""
    positions = Positions()
    positions.set(ZERO, stored=0, next_offset=0)
    assert offsets([message(3), message(3), message(2), message(9)], positions) == [3, 9]
    assert positions.next_offset(ZERO) == 10


def test_advances_build_on_each_other() -> None:
    """Each batch compares with what the batch before it leaves; partitions that stood still are not touched."""
    positions = Positions()
    positions.set(ZERO, stored=0, next_offset=0)
    positions.set(ONE, stored=7, next_offset=7)
    positions.take([message(0), message(1)])
    assert positions.advances() == {ZERO: Advance(0, 2)}
    positions.take([message(2), message(7, partition=1)])
    assert positions.advances() == {ZERO: Advance(2, 3), ONE: Advance(7, 8)}
    assert positions.advances() == {}


def test_end_of_a_partition_is_stored_without_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker of a transaction takes an offset that no message has."""
    now = [100.0]
    monkeypatch.setattr("sensorlog_ingest.positions.time.monotonic", lambda: now[0])
    positions = Positions()
    positions.set(ZERO, stored=0, next_offset=0)
    positions.take([message(0)])
    positions.reach_end(ZERO, 1)
    now[0] += 5
    assert positions.gap_age() == 0, "the end is where the messages end"
    positions.reach_end(ZERO, 2)
    positions.reach_end(ONE, 9)
    now[0] += 5
    assert positions.gap_age() == 5
    assert positions.advances() == {ZERO: Advance(0, 2)}
    assert positions.gap_age() == 0


def test_messages_of_a_partition_that_went_away_are_left_out() -> None:
    """Librdkafka may hand out what it fetched before a rebalance."""
    positions = Positions()
    positions.set(ZERO, stored=0, next_offset=0)
    positions.remove([ZERO, ONE])
    assert offsets([message(0)], positions) == []
    assert positions.assigned == []


def test_forgotten_positions_wait_anew() -> None:
    """After a fence every partition asks the database again."""
    positions = Positions()
    positions.set(ZERO, stored=0, next_offset=0)
    positions.assign([ONE])
    positions.forget()
    assert positions.waiting == {ZERO, ONE}
    assert offsets([message(0)], positions) == []


@pytest.mark.parametrize(
    ("stored", "low", "high", "start"),
    [
        (0, 0, 0, Start(0)),
        (5, 0, 9, Start(5)),
        (9, 0, 9, Start(9)),
        (5, 5, 5, Start(5)),
        (5, 7, 9, Start(7, lost=2)),
    ],
)
def test_start_is_the_stored_offset_or_the_first_there_is(stored: int, low: int, high: int, start: Start) -> None:
    """What retention deleted is counted."""
    assert start_of(stored, low, high, topic_is_new=False) == start


def test_start_beyond_the_end_depends_on_whose_log_it_is() -> None:
    """A topic made anew is unread from its beginning; the rest of a shortened log was read to its end."""
    assert start_of(10, 2, 9, topic_is_new=True) == Start(2, restarted=True)
    assert start_of(10, 2, 9, topic_is_new=False) == Start(9, restarted=True)
