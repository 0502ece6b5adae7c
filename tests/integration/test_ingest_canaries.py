"""Canaries pass ingest like readings and are none."""

import pytest

from sensorlog.canary import HEADER, MAX_TOKEN_LENGTH
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.waiting import wait_for_value

pytestmark = pytest.mark.integration


def send(pipeline: Pipeline, token: str, partition: int = 0) -> None:
    """Produce a canary."""
    producer = pipeline.broker.producer()
    topic = pipeline.config.kafka.readings_topic
    producer.produce(topic, b"canary", partition=partition, headers={HEADER: token.encode()})
    assert producer.flush(30) == 0


def test_canaries_among_readings_are_kept_apart(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """The last of each partition is stored, no reading and no dead letter comes of it, and all readings land."""
    pipeline = make_pipeline(partitions=2)
    start_ingest(pipeline)
    for number in range(5):
        pipeline.produce({"ts": SEED_TS + 100 * number + n, "sensor_id": 1} for n in range(100))
        send(pipeline, f"token-{number}")
    send(pipeline, "elsewhere", partition=1)
    wait_for_value(
        lambda: (pipeline.counts(), pipeline.query("SELECT partition, token FROM canaries ORDER BY partition")),
        ((500, 500), [(0, "token-4"), (1, "elsewhere")]),
        deadline=30,
        what="readings and canaries",
    )
    assert pipeline.dead_letters() == []


def test_what_only_looks_like_a_canary_is_a_dead_letter(pipeline: Pipeline, start_ingest: StartService) -> None:
    """A token that no operator would send is not stored among canaries."""
    start_ingest(pipeline)
    send(pipeline, "x" * (MAX_TOKEN_LENGTH + 1))
    wait_for_value(lambda: len(pipeline.dead_letters()), 1, deadline=30, what="one dead letter")
    assert pipeline.query("SELECT count(*) FROM canaries") == [(0,)]
