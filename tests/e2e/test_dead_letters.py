"""Dead letters on a real cluster: seen, stored once they are right, and discarded, as a user does it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.cluster import CommandError, E2EPipeline, Object
from support.waiting import wait_for_value

pytestmark = pytest.mark.e2e

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}
NARROW = [{"name": "temperature", "max": 50}, {"name": "cpu"}]
WIDE = [{"name": "temperature", "max": 200}, {"name": "cpu"}]


def words(pipeline: E2EPipeline, command: str, *arguments: str) -> tuple[str, ...]:
    """Return the words of a command on dead letters."""
    return ("sensorlog", "dead-letters", command, pipeline.name, *arguments, "-n", pipeline.namespace)


def dead_letters(pipeline: E2EPipeline, command: str, *arguments: str, stdin: str | None = None) -> Any:
    """Run a command on dead letters and return its JSON; CommandError when it does not end with 0."""
    return json.loads(pipeline.cluster.run(*words(pipeline, command, *arguments, "-o", "json"), stdin=stdin))


def send(pipeline: E2EPipeline, *values: object) -> None:
    """Send messages past the checks of `sensorlog publish`: a text as it is, anything else as JSON."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    lines = "".join(json.dumps({"topic": pipeline.topic, "value": text}) + "\n" for text in texts)
    producer = ("exec", "-i", f"deployment/{pipeline.name}-ingest", "--", "python", "-m", "sensorlog.produce")
    outcomes = pipeline.cluster.kubectl("-n", pipeline.namespace, *producer, stdin=lines)
    assert [json.loads(line)["error"] for line in outcomes.splitlines()] == [None] * len(values)


def by_reason(pipeline: E2EPipeline) -> dict[str, int]:
    """Return how many dead letters there are by reason."""
    return {each["reason"]: each["count"] for each in dead_letters(pipeline, "list")["reasons"]}


def too_hot(number: int) -> list[Object]:
    """Return a message of two readings that only the wide limits take, different for each number."""
    return [{**SEED, "ts": SEED["ts"] + number, "sensor_id": sensor, "temperature": 100} for sensor in (1, 2)]


def test_letters_land_once_after_the_limits_were_widened(make_pipeline: Callable[..., E2EPipeline]) -> None:
    """A dry run first; then all are rows, and a second replay finds nothing to do."""
    pipeline = make_pipeline(measurements=NARROW)
    pipeline.apply()
    pipeline.wait_ready()
    send(pipeline, *map(too_hot, range(50)))
    wait_for_value(lambda: by_reason(pipeline), {"out_of_range": 50}, deadline=60, what="dead letters")
    with pytest.raises(CommandError, match="exited with 1"):
        dead_letters(pipeline, "replay", "--all")
    assert (pipeline.stored(), by_reason(pipeline)) == (0, {"out_of_range": 50})

    pipeline.apply(measurements=WIDE)
    pipeline.wait_ready()
    assert dead_letters(pipeline, "replay", "--reason", "out_of_range", "--dry-run")["readings"] == 100
    assert pipeline.stored() == 0
    report = dead_letters(pipeline, "replay", "--reason", "out_of_range")
    assert (report["letters"], report["readings"], report["rejected"]) == (50, 100, [])
    assert pipeline.stored() == 100
    assert dead_letters(pipeline, "replay", "--all")["letters"] == 0
    distinct = pipeline.cluster.psql(f"SELECT count(DISTINCT (time, sensor_id)) FROM {pipeline.schema}.sensor_data")
    assert int(distinct) == 100
    assert len(pipeline.readings()) == 100


def test_a_letter_is_shown_corrected_and_the_rest_discarded(pipeline: E2EPipeline) -> None:
    """What is shown raw can be given back corrected; values of several pieces come through whole."""
    rubbish = "rubbish " * 50_000
    send(pipeline, json.dumps([SEED]).replace("}", ",}"), rubbish)
    wait_for_value(lambda: by_reason(pipeline), {"not_json": 2}, deadline=60, what="dead letters")
    letters = {each["value_bytes"]: each["id"] for each in dead_letters(pipeline, "list")["letters"]}
    large = letters.pop(len(rubbish))
    (broken,) = letters.values()
    assert pipeline.cluster.run(*words(pipeline, "show", large, "--raw")) == rubbish
    value = pipeline.cluster.run(*words(pipeline, "show", broken, "--raw"))
    assert dead_letters(pipeline, "show", broken)["value"] == value

    corrected = value.replace(",}", "}")
    assert dead_letters(pipeline, "replay", broken, "--value", "-", stdin=corrected)["readings"] == 1
    with pytest.raises(CommandError, match="exited with 3"):
        dead_letters(pipeline, "replay", broken, "--value", "-", stdin=corrected)
    assert pipeline.readings() == [SEED]

    with pytest.raises(CommandError, match="--yes says yes"):
        dead_letters(pipeline, "discard", "--reason", "not_json", stdin="")
    assert dead_letters(pipeline, "discard", "--reason", "not_json", "--yes")["letters"] == 1
    assert by_reason(pipeline) == {}
