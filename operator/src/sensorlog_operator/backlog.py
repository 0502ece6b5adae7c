"""How far ingest is behind its topic, and how old the oldest message is that it has not stored.

Both are asked of the brokers, by offsets: no message is read.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from sensorlog_operator.brokers import REQUEST_TIMEOUT_SECONDS, KafkaAdmin, mapped_errors

YOUNG = timedelta(minutes=1)
"""Younger than this is not told apart: ingest that works is always a little behind."""

PRECISION = 1.1
"""The age found is at most so many times too large; each tenth more precise costs requests."""

Positions = Mapping[int, int]
"""Offsets by partition."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is in a topic and not in the database."""

    lag: int
    """Offsets between what is stored and the end of the log."""
    oldest: timedelta
    """Age of the oldest message of them by its timestamp, at most so much; zero where all are younger than a minute."""
    lost: int
    """Offsets that the log begins after: deleted, by retention or by hand, before they were stored."""


def observe(kafka: KafkaAdmin, topic: str, partitions: int, stored: Positions, horizon: timedelta | None) -> Backlog:
    """Return the backlog of `topic`, which must exist. `stored` are the offsets to go on from.

    A partition that nothing was stored of counts from its first message that still exists. Ages are told apart up to
    `horizon`, at which retention deletes; without one nothing gets too old, and no age is asked for.
    """
    with mapped_errors(kafka):
        # Since a plan found the topic missing once, the client believes that it has no leaders until it asks again.
        kafka.client.list_topics(topic, timeout=REQUEST_TIMEOUT_SECONDS)
    every = range(partitions)
    first = _offsets(kafka, topic, dict.fromkeys(every, OffsetSpec.earliest()))
    end = _offsets(kafka, topic, dict.fromkeys(every, OffsetSpec.latest()))
    begun = {p: offset for p, offset in stored.items() if offset > 0}
    unread = {p: offset for p in every if (offset := max(begun.get(p, 0), first[p])) < end[p]}
    return Backlog(
        lag=sum(end[p] - offset for p, offset in unread.items()),
        oldest=_oldest(lambda age: _is_older(kafka, topic, unread, age), horizon)
        if unread and horizon
        else timedelta(),
        lost=sum(max(0, first[p] - begun[p]) for p in every if p in begun),
    )


def _oldest(is_older: Callable[[timedelta], bool], horizon: timedelta) -> timedelta:
    """Return the least age, within the precision, that nothing is older than; not more than `horizon`."""
    if not is_older(YOUNG):
        return timedelta()
    low, high = YOUNG.total_seconds(), max(YOUNG, horizon).total_seconds()
    while high > PRECISION * low:
        middle = math.sqrt(low * high)
        if is_older(timedelta(seconds=middle)):
            low = middle
        else:
            high = middle
    return timedelta(seconds=high)


def _is_older(kafka: KafkaAdmin, topic: str, unread: Positions, age: timedelta) -> bool:
    """Return whether a message at one of `unread` is older than `age`."""
    spec = OffsetSpec.for_timestamp(int((time.time() - age.total_seconds()) * 1000))
    young = _offsets(kafka, topic, dict.fromkeys(unread, spec))
    # An offset of -1 says that no message is as young.
    return any(young[partition] < 0 or young[partition] > offset for partition, offset in unread.items())


def _offsets(kafka: KafkaAdmin, topic: str, wanted: Mapping[int, OffsetSpec]) -> dict[int, int]:
    asked = {TopicPartition(topic, partition): spec for partition, spec in wanted.items()}
    futures = kafka.client.list_offsets(asked, request_timeout=REQUEST_TIMEOUT_SECONDS)
    return {partition.partition: result.offset for partition, result in kafka.results(futures).items()}
