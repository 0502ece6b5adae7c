"""Plans through the command line, on a cluster: what a file would do, what waits, and its approval."""

import json
from pathlib import Path

import pytest

from support.cluster import Cluster, E2EPipeline
from support.waiting import wait_until

pytestmark = pytest.mark.e2e

PENDING = 4
"""The exit code of `sensorlog plan` when something is to be done."""


def plan(pipeline: E2EPipeline, *arguments: str) -> dict[str, object]:
    """Return what `sensorlog plan` says as JSON; its exit code is not looked at."""
    command = ("sensorlog", "plan", "-n", pipeline.namespace, *arguments, "-o", "json")
    answer = json.loads(pipeline.cluster.run("sh", "-c", f"{' '.join(command)} || test $? = {PENDING}", seconds=180))
    return dict(answer[0] if isinstance(answer, list) else answer)


def test_a_file_is_planned_before_it_is_applied_and_waits_after(pipeline: E2EPipeline, tmp_path: Path) -> None:
    """Both name the same plan, and its approval grows the topic."""
    pipeline.wait_ready()
    file = tmp_path / "pipeline.json"
    body = pipeline.body(approval="Manual", kafka={"readings": {"partitions": 3}})
    file.write_text(json.dumps(body))
    said = plan(pipeline, "-f", str(file))
    assert "from 2 to 3 partitions" in json.dumps(said["actions"])

    pipeline.apply(approval="Manual", kafka={"readings": {"partitions": 3}})
    pipeline.wait_condition("PlanPending", "ApprovalPending", status="True")
    assert plan(pipeline, pipeline.name)["hash"] == said["hash"]
    pipeline.sensorlog("plan", "--approve")
    wait_until(
        lambda: pipeline.get()["status"]["topic"],
        lambda topic: topic.endswith("(3)"),
        deadline=60,
        what="the topic to have 3 partitions",
    )
    pipeline.wait_ready()


def test_a_file_that_the_api_server_refuses_is_refused_with_its_words(cluster: Cluster, tmp_path: Path) -> None:
    """Before the operator is asked."""
    file = tmp_path / "pipeline.json"
    body = E2EPipeline(cluster, "default", spec={"deletionPolicy": "Maybe"}).body()
    file.write_text(json.dumps(body))
    said = cluster.run("sh", "-c", f"sensorlog plan -n default -f {file} 2>&1 || test $? = 2", seconds=60)
    assert "deletionPolicy" in said
