"""How far ingest is behind its topic, and how old the oldest message is that it has not stored.

Both are asked of the brokers, by offsets: no message is read.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
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

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is in a topic and not in the database."""

    lag: int
    """Offsets between what is stored and the end of the log."""
    oldest: timedelta
    """Age of the oldest message of them by its timestamp, at most so much; zero where all are younger than a minute."""
    lost: int
    """Offsets that the log begins after: deleted, by retention or by hand, before they were stored."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about: a topic, which must exist, and the offsets to go on from.

    A partition that nothing was stored of counts from its first message that still exists. Ages are told apart up to
    `horizon`, at which retention deletes; without one nothing gets too old, and no age is asked for.
    """

    topic: str
    partitions: int
    stored: Positions
    horizon: timedelta | None

    @property
    def places(self) -> list[Place]:
        """All partitions of the topic."""
        return [(self.topic, partition) for partition in range(self.partitions)]


def observe(kafka: KafkaAdmin, question: Question) -> Backlog:
    """Return the backlog of a topic."""
    with mapped_errors(kafka):
        # Since a plan found the topic missing once, the client believes that it has no leaders until it asks again.
        kafka.client.list_topics(question.topic, timeout=REQUEST_TIMEOUT_SECONDS)
    return observe_each(kafka, [question])[question.topic]


def observe_each(kafka: KafkaAdmin, questions: Sequence[Question]) -> dict[str, Backlog]:
    """Return the backlog of each topic, in as many requests as for one; PipelineErrors where one of them is missing."""
    places = [place for asked in questions for place in asked.places]
    first = _offsets(kafka, dict.fromkeys(places, OffsetSpec.earliest()))
    end = _offsets(kafka, dict.fromkeys(places, OffsetSpec.latest()))
    begun = {(q.topic, p): offset for q in questions for p, offset in q.stored.items() if offset > 0}
    unread = {place: offset for place in places if (offset := max(begun.get(place, 0), first[place])) < end[place]}
    waiting = {topic for topic, _ in unread}
    horizons = {q.topic: q.horizon for q in questions if q.horizon is not None and q.topic in waiting}
    ages = _oldest(lambda topics: _older(kafka, unread, topics), horizons)
    return {
        asked.topic: Backlog(
            lag=sum(end[place] - unread[place] for place in asked.places if place in unread),
            oldest=ages.get(asked.topic, timedelta()),
            lost=sum(max(0, first[place] - begun[place]) for place in asked.places if place in begun),
        )
        for asked in questions
    }


def _oldest(
    older: Callable[[Mapping[str, timedelta]], AbstractSet[str]], horizons: Mapping[str, timedelta]
) -> dict[str, timedelta]:
    """Return of each topic the least age, within the precision, that nothing is older than; at most its horizon.

    `older` says which topics have a message older than an age of theirs; all of them are halved at the same time.
    """
    aged = older(dict.fromkeys(horizons, YOUNG)) if horizons else frozenset[str]()
    ranges = {t: (YOUNG.total_seconds(), max(YOUNG, horizons[t]).total_seconds()) for t in aged}
    while wide := {t: math.sqrt(low * high) for t, (low, high) in ranges.items() if high > PRECISION * low}:
        found = older({topic: timedelta(seconds=middle) for topic, middle in wide.items()})
        ranges |= {t: (middle, ranges[t][1]) if t in found else (ranges[t][0], middle) for t, middle in wide.items()}
    return {topic: timedelta(seconds=high) for topic, (_, high) in ranges.items()}


def _older(kafka: KafkaAdmin, unread: Mapping[Place, int], ages: Mapping[str, timedelta]) -> AbstractSet[str]:
    """Return the topics that have a message at one of `unread` which is older than their age."""
    now = time.time()
    specs = {t: OffsetSpec.for_timestamp(int((now - age.total_seconds()) * 1000)) for t, age in ages.items()}
    asked = {place: offset for place, offset in unread.items() if place[0] in specs}
    young = _offsets(kafka, {place: specs[place[0]] for place in asked})
    # An offset of -1 says that no message is as young.
    return {place[0] for place, offset in asked.items() if young[place] < 0 or young[place] > offset}


def _offsets(kafka: KafkaAdmin, wanted: Mapping[Place, OffsetSpec]) -> dict[Place, int]:
    asked = {TopicPartition(*place): spec for place, spec in wanted.items()}
    futures = kafka.ask("list_offsets", asked)
    return {(at.topic, at.partition): result.offset for at, result in kafka.results(futures).items()}
