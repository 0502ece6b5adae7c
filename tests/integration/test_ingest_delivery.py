"""Readings and sensors arrive, in every format a producer may send."""

import pytest

from support.pipelines import Pipeline
from support.processes import StartService
from support.waiting import wait_for_value

pytestmark = pytest.mark.integration


def test_seed_message_arrives(pipeline: Pipeline, start_ingest: StartService) -> None:
    """The message of the README becomes one row."""
    start_ingest(pipeline)
    pipeline.produce([b'[{"ts": 1646409307, "sensor_id": 1, "temperature":30, "cpu":20}]'])
    wait_for_value(pipeline.count, 1, deadline=20, what="the number of readings")
    assert pipeline.query("SELECT extract(epoch FROM time)::bigint, sensor_id, temperature, cpu FROM sensor_data") == [
        (1646409307, 1, 30.0, 20.0)
    ]
