"""Retention as a user has it: the operator as a process, with the chart's rights and a user of the database's own."""

import base64
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.apiserver import ApiServer
from support.database import Database
from support.kafka import KafkaBroker
from support.operated import (
    OperatedPipeline,
    login,
    start_operator,
)
from support.waiting import wait_until

pytestmark = pytest.mark.integration

SECONDS = 45
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture
def pipeline(
    api_server: ApiServer, broker: KafkaBroker, database: Database, tmp_path: Path
) -> Iterator[OperatedPipeline]:
    """Yield a pipeline that was provisioned, while its operator runs."""
    namespace = f"plants-{secrets.token_hex(3)}"
    api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    data = {"uri": base64.b64encode(login(database).uri.encode()).decode()}
    secret = {"metadata": {"name": "timescaledb"}, "data": data}
    api_server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    operator = start_operator(api_server, tmp_path)
    operator.wait_ready()
    pipeline = OperatedPipeline(api_server, broker, namespace)
    pipeline.create(approval="Manual", driftPolicy="Report")
    pipeline.approve()
    pipeline.wait_condition("SchemaReady", "True", "Ready")
    yield pipeline
    pipeline.delete()
    operator.clean_up()


def table(pipeline: OperatedPipeline) -> str:
    """Return the table of readings."""
    return f"{pipeline.schema}.sensor_data"


def store(pipeline: OperatedPipeline, database: Database, *days: int) -> None:
    """Store readings of these ages in days, each its sensor's number."""
    for age in days:
        database.execute(f"INSERT INTO {table(pipeline)} (time, sensor_id) VALUES (%s, %s)", [NOW - age * DAY, age])


def ages(pipeline: OperatedPipeline, database: Database) -> set[int]:
    """Return the ages of the readings that are left."""
    return {age for (age,) in database.execute(f"SELECT sensor_id FROM {table(pipeline)}")}


def events(pipeline: OperatedPipeline, reason: str) -> list[str]:
    """Return what Events say."""
    items = pipeline.server.call("GET", f"/api/v1/namespaces/{pipeline.namespace}/events")["items"]
    return [item["message"] for item in items if item["reason"] == reason]


def test_old_readings_go_when_that_was_approved_and_then_every_day(
    pipeline: OperatedPipeline, database: Database
) -> None:
    """The plan names what goes; later drops need no approval, and driftPolicy Report does not stop them."""
    store(pipeline, database, 0, 10, 100, 101)
    assert pipeline.condition("FeaturesReady") is None
    pipeline.change(timescale={"retention": "90d"})
    plan = pipeline.pending_plan("drop 2 chunks of")
    (drop,) = [action for action in plan["actions"] if action["step"] == "features"]
    assert drop["risk"] == "These readings are gone for good."
    assert "drop_chunks" in drop["detail"]
    pipeline.wait_condition("FeaturesReady", "False", "ApprovalPending")
    assert ages(pipeline, database) == {0, 10, 100, 101}

    pipeline.approve("drop 2 chunks of")
    wait_until(lambda: ages(pipeline, database) == {0, 10}, deadline=SECONDS, what="the old chunks to go")
    condition = pipeline.wait_condition("FeaturesReady", "True", "Ready")
    assert condition["message"] == "In force: retention 90d."
    assert any("drop 2 chunks of" in said for said in events(pipeline, "Applied"))
    wait_until(lambda: "plan" not in pipeline.status(), deadline=SECONDS, what="the plan to be done")

    store(pipeline, database, 95)  # late
    wait_until(lambda: ages(pipeline, database) == {0, 10}, deadline=SECONDS, what="the next chunk to go by itself")
    pipeline.wait_condition("Drifted", "False", "NoDrift")

    pipeline.change(timescale={"retention": None})
    wait_until(lambda: pipeline.condition("FeaturesReady") is None, deadline=SECONDS, what="the condition to go")
    store(pipeline, database, 96)
    pipeline.change(timescale={"compressAfter": "7d", "rollups": [{"interval": "1h"}]})
    lacking = pipeline.wait_condition("FeaturesReady", "False", "EditionLacksFeature")
    assert "compressAfter has no effect" in lacking["message"]
    assert "rollups have no effect" in lacking["message"]
    assert ages(pipeline, database) == {0, 10, 96}
    pipeline.wait_condition("SchemaReady", "True", "Ready")
    assert "plan" not in pipeline.status()
