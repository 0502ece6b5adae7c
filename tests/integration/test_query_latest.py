"""The last readings of many sensors are those that a look at every reading would find."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.latest import MANY
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, as_reading, query_service

pytestmark = pytest.mark.integration

SENSORS = 3 * MANY

# Sensors report once a minute, or a multiple of that; every seventh was silent for the last days, and every tenth has
# two last readings at one moment, one of them with a NULL.
FILL = """
INSERT INTO sensor_data
SELECT to_timestamp(%(base)s) + minute * interval '1 minute', sensor, sensor % 5 + minute, NULLIF(minute % 3, 0)
FROM generate_series(1, %(sensors)s) AS sensor, generate_series(0, 4 * 1440, 30) AS minute
WHERE minute % (30 * (sensor % 4 + 1)) = 0 AND (sensor % 7 > 0 OR minute < 1440)
UNION ALL
SELECT to_timestamp(%(base)s) + 4 * interval '1 day', sensor, 1000, NULL
FROM generate_series(10, %(sensors)s, 10) AS sensor
"""

EXPECTED = """
SELECT DISTINCT ON (sensor_id) extract(epoch FROM time)::bigint, sensor_id, temperature, cpu
FROM sensor_data ORDER BY sensor_id, time DESC, temperature DESC, cpu DESC
"""


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with many sensors of different habits, all of them known."""
    made = make_pipeline(create_topics=False)
    made.query(FILL.replace("% ", "%% "), {"base": SEED_TS // 86_400 * 86_400, "sensors": SENSORS})
    made.query(
        "INSERT INTO sensors (id, updated_at) SELECT n, '-infinity' FROM generate_series(1, %s) n", [SENSORS + 5]
    )
    return made


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service over the pipeline."""
    with query_service(start_service, pipeline) as service:
        yield service


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_every_sensors_last_reading_is_found(query: QueryService, pipeline: Pipeline, *, is_analyzed: bool) -> None:
    """Of those that report often, seldom, not any more, twice at a time; a sensor without a reading is left out."""
    if is_analyzed:
        pipeline.query("ANALYZE sensor_data")
    expected = [(ts, sensor, values) for ts, sensor, *values in pipeline.query(EXPECTED)]
    assert len(expected) == SENSORS
    reply = query.stub.GetLatestSensorData(pb.GetLatestSensorDataReq())
    assert [as_reading(message) for message in reply.results] == [(ts, id_, tuple(v)) for ts, id_, v in expected]


def test_many_chosen_sensors_are_found_likewise(query: QueryService, pipeline: Pipeline) -> None:
    """Ids that nobody has and ids that come twice do no harm."""
    chosen = [*range(2, 2 * MANY), 5, 5, 10**15, -1][:1_000]
    expected = [row for row in pipeline.query(EXPECTED) if row[1] in set(chosen)]
    reply = query.stub.GetLatestSensorData(pb.GetLatestSensorDataReq(sensor_ids=chosen))
    assert [as_reading(message) for message in reply.results] == [(ts, id_, tuple(v)) for ts, id_, *v in expected]
