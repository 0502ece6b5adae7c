"""A client generated from the original contract gets right answers, with the defaults that it does not send."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.pipelines import SEED_TS, Pipeline
from support.query import average, bucketed, in_order, latest, query_service, random_readings, store

pytestmark = pytest.mark.integration

CONTRACT = Path(__file__).parent / "original_contract"
READINGS = random_readings(3, count=400)

Call = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the stubs of the original contract, generated now."""
    folder = tmp_path_factory.mktemp("original")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{CONTRACT}", "logger.proto"]
    subprocess.run([*command, f"--python_out={folder}", f"--grpc_python_out={folder}"], check=True, timeout=60)
    return folder


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline with READINGS and 150 sensors."""
    pipeline = make_pipeline(create_topics=False)
    pipeline.query("INSERT INTO sensors SELECT n, 'kind', 'floor ' || n FROM generate_series(1, 150) n")
    store(pipeline, READINGS)
    return pipeline


@pytest.fixture
def call(start_service: Any, pipeline: Pipeline, stubs: Path) -> Iterator[Call]:
    """Return a function that calls a method as the original client and returns the results."""
    with query_service(start_service, pipeline) as service:

        def run(method: str, **fields: int) -> list[dict[str, Any]]:
            arguments = [f"{name}={value}" for name, value in fields.items()]
            command = [sys.executable, str(CONTRACT / "client.py"), str(stubs), service.target, method, *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
            return results

        yield run


def test_sensors(call: Call) -> None:
    """The first hundred by default, then by page."""
    assert [int(s["id"]) for s in call("ListSensor")] == list(range(1, 101))
    assert call("ListSensor", page=2, page_size=50)[0] == {"id": "51", "type": "kind", "location": "floor 51"}
    assert [int(s["id"]) for s in call("ListSensor", page=2)] == list(range(101, 151))


def test_readings(call: Call) -> None:
    """The first hundred in order of time by default, then by page; the sensor's id is in sensor_id."""
    expected = [
        {"ts": str(ts), "sensor_id": str(sensor), "temperature": values[0] or 0.0, "cpu": values[1] or 0.0}
        for ts, sensor, values in in_order(READINGS)
    ]
    assert call("ListSensorData") == expected[:100]
    assert call("ListSensorData", page=4) == expected[300:400]
    assert call("ListSensorData", page=3, page_size=7) == expected[14:21]
    assert call("ListSensorData", page_size=10_000) == expected


def test_averages(call: Call) -> None:
    """Per half hour over all sensors."""
    expected = bucketed(READINGS, 1_800)
    got = call("GetSensorAvgData")
    assert [int(bucket["period"]) for bucket in got] == [period for period, _ in expected]
    for bucket, readings in zip(got, expected.values(), strict=True):
        assert bucket["avg_temp"] == pytest.approx(average(readings, 0) or 0)
        assert bucket["avg_cpu"] == pytest.approx(average(readings, 1) or 0)


def test_averages_and_latest_temperature(call: Call) -> None:
    """As the averages, and the bucket's latest temperature."""
    expected = bucketed(READINGS, 1_800)
    got = call("GetSensorAvgAndLatestData")
    assert [int(bucket["period"]) for bucket in got] == [period for period, _ in expected]
    for bucket, readings in zip(got, expected.values(), strict=True):
        assert bucket["avg_temp"] == pytest.approx(average(readings, 0) or 0)
        assert bucket["avg_cpu"] == pytest.approx(average(readings, 1) or 0)
        assert bucket["last_temp"] == (latest(readings, 0) or 0)


def test_the_seed_reading_comes_back(call: Call, pipeline: Pipeline) -> None:
    """The README's first message."""
    pipeline.query("TRUNCATE sensor_data")
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    assert call("ListSensorData") == [{"ts": "1646409307", "sensor_id": "1", "temperature": 30.0, "cpu": 20.0}]
