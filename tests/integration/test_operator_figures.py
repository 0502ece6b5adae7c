"""The figures of a pipeline's status against a real broker and a real database."""

import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

from sensorlog_operator import backlog, brokers, figures, metrics
from sensorlog_operator.backlog import Backlog
from support.database import Database
from support.kafka import KafkaBroker
from support.pipelines import MakePipeline, Pipeline
from support.processes import StartService
from support.waiting import wait_until

pytestmark = pytest.mark.integration

HORIZON = timedelta(days=7)


def observe_backlog(pipeline: Pipeline, partitions: int, stored: dict[int, int]) -> Backlog:
    """Return the backlog of a pipeline's readings."""
    kafka = brokers.admin({"bootstrap.servers": pipeline.config.kafka.bootstrap_servers})
    question = backlog.Question(pipeline.config.kafka.readings_topic, partitions, stored, HORIZON)
    return backlog.observe(kafka, question)


def produce_at(broker: KafkaBroker, topic: str, partition: int, ages: list[timedelta]) -> None:
    """Produce messages that say that they are so old."""
    producer = broker.producer()
    for age in ages:
        timestamp = int((time.time() - age.total_seconds()) * 1000)
        producer.produce(topic, b"[]", partition=partition, timestamp=timestamp)
    assert producer.flush(30) == 0


def test_the_age_of_the_oldest_message_is_found_by_asking_for_offsets(
    broker: KafkaBroker, make_pipeline: MakePipeline
) -> None:
    """Within a tenth, and only of what is not stored."""
    pipeline = make_pipeline(partitions=2)
    topic = pipeline.config.kafka.readings_topic
    produce_at(broker, topic, 0, [timedelta(days=3), timedelta(hours=5), timedelta(seconds=1)])
    produce_at(broker, topic, 1, [timedelta(seconds=1)])
    everything = observe_backlog(pipeline, 2, {})
    assert everything.lag == 4
    assert timedelta(days=3) <= everything.oldest <= timedelta(days=3) * backlog.PRECISION
    rest = observe_backlog(pipeline, 2, {0: 1, 1: 1})
    assert rest.lag == 2
    assert timedelta(hours=5) <= rest.oldest <= timedelta(hours=5) * backlog.PRECISION
    assert observe_backlog(pipeline, 2, {0: 2, 1: 0}) == Backlog(lag=2, oldest=timedelta(), lost=0)
    assert observe_backlog(pipeline, 2, {0: 3, 1: 1}) == Backlog(lag=0, oldest=timedelta(), lost=0)


def test_topics_asked_about_together_have_each_their_own_backlog(
    broker: KafkaBroker, make_pipeline: MakePipeline
) -> None:
    """As many requests as for one: the ages are narrowed down at the same time, each up to its own horizon."""
    old, young, empty = (make_pipeline(partitions=1).config.kafka.readings_topic for _ in range(3))
    produce_at(broker, old, 0, [timedelta(days=3), timedelta(hours=5)])
    produce_at(broker, young, 0, [timedelta(hours=5), timedelta(hours=5)])
    kafka = brokers.admin({"bootstrap.servers": broker.bootstrap_servers})
    questions = [
        backlog.Question(old, 1, {0: 0}, HORIZON),
        backlog.Question(young, 1, {0: 1}, timedelta(hours=2)),
        backlog.Question(empty, 1, {}, HORIZON),
    ]
    for topic in (old, young, empty):
        kafka.client.list_topics(topic, timeout=10)
    before = requests()
    found = backlog.observe_each(kafka, questions)
    together = requests() - before
    assert {topic: one.lag for topic, one in found.items()} == {old: 2, young: 1, empty: 0}
    assert timedelta(days=3) <= found[old].oldest <= timedelta(days=3) * backlog.PRECISION
    assert found[young].oldest == timedelta(hours=2)
    assert found[empty].oldest == timedelta()
    backlog.observe_each(kafka, questions[:1])
    assert together == requests() - before - together


def requests() -> float:
    """Return how often offsets were asked for."""
    return float(metrics.KAFKA_REQUESTS.labels("list_offsets")._value.get())


def test_what_was_deleted_before_it_was_stored_is_counted(broker: KafkaBroker, make_pipeline: MakePipeline) -> None:
    """A partition that nothing was ever stored of lost nothing: its pipeline is new."""
    pipeline = make_pipeline(partitions=1)
    topic = pipeline.config.kafka.readings_topic
    produce_at(broker, topic, 0, [timedelta(seconds=1)] * 10)
    broker.delete_records(topic, 0, before=6)
    assert observe_backlog(pipeline, 1, {0: 2}) == Backlog(lag=4, oldest=timedelta(), lost=4)
    assert observe_backlog(pipeline, 1, {0: 0}) == Backlog(lag=4, oldest=timedelta(), lost=0)
    assert observe_backlog(pipeline, 1, {}) == Backlog(lag=4, oldest=timedelta(), lost=0)


def test_what_ingest_stores_is_told_in_figures(
    database: Database, pipeline: Pipeline, start_ingest: StartService
) -> None:
    """Rate, newest reading, dead letters, size and chunks."""
    start_ingest(pipeline)
    newest = int(time.time())
    pipeline.produce([{"ts": newest - age, "sensor_id": 1, "temperature": 20}] for age in range(120))
    pipeline.produce([{"ts": "yesterday", "sensor_id": 1}])
    wait_until(lambda: (pipeline.count(), len(pipeline.dead_letters())) == (120, 1), deadline=60, what="121 messages")
    with psycopg.connect(database.uri, autocommit=True, row_factory=dict_row) as connection:
        stored = figures.observe(connection, pipeline.schema)
    assert stored.rows_per_second == 120 / figures.RATE_SECONDS
    assert stored.newest == datetime.fromtimestamp(newest, UTC)
    assert stored.dead_letters_last_hour == 1
    assert stored.chunks >= 1
    assert stored.size_bytes > 8192
