"""Scaling by others in a cluster that has neither KEDA nor a metrics-server: said, and data flows all the same."""

from typing import Any

import pytest

from support.cluster import E2EPipeline
from support.waiting import wait_for_value

pytestmark = pytest.mark.e2e

SEED: dict[str, Any] = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}


def test_without_keda_ingest_stays_at_its_least_and_the_pipeline_is_ready(pipeline: E2EPipeline) -> None:
    """The condition says what to install."""
    pipeline.apply(ingest={"autoscaling": {"minReplicas": 2, "maxReplicas": 2}})
    condition = pipeline.wait_condition("AutoscalingReady", "KedaMissing")
    assert "ingest stays at 2 pods. Install KEDA" in condition["message"]
    pipeline.wait_ready()
    wait_for_value(lambda: pipeline.get()["status"]["ingest"], "2/2", deadline=60, what="ingest")
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")


def test_a_scaler_without_metrics_is_heard_and_the_pods_stay(pipeline: E2EPipeline) -> None:
    """The autoscaler's own words are in the condition; the number of pods is as it was."""
    pipeline.apply(query={"replicas": 2})
    pipeline.wait_ready()
    pipeline.apply(query={"autoscaling": {"minReplicas": 1, "maxReplicas": 3}})
    condition = pipeline.wait_condition("AutoscalingReady", "ScalerFailing", deadline=90)
    assert "FailedGetResourceMetric" in condition["message"]
    assert pipeline.deployment("query")["spec"]["replicas"] == 2
    pipeline.wait_ready()
    pipeline.apply(query={"autoscaling": None, "replicas": 1})
    wait_for_value(lambda: pipeline.get()["status"]["query"], "1/1", deadline=60, what="query")
    wait_for_value(
        lambda: "AutoscalingReady" in pipeline.conditions(), expected=False, deadline=30, what="the condition"
    )
