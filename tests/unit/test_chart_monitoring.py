"""Alerts and dashboards of the chart: they name metrics that exist, and alerts say what they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from sensorlog_ingest.metrics import Metrics as IngestMetrics
from sensorlog_operator import metrics as operator_metrics
from sensorlog_operator.condition_metrics import CONDITION_METRICS
from sensorlog_query.metrics import CertificateMetrics, DatabaseMetrics, Metrics, PoolCollector

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts/sensorlog/files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
ALERTS = "charts/sensorlog/files/alerts.yaml"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


class _Pool:
    """A connection pool, of which only the numbers matter."""

    def get_stats(self) -> dict[str, int]:
        return {}


def known_metrics() -> set[str]:
    """Return the names of all series of the three programs."""
    registry = CollectorRegistry()
    for metrics in (IngestMetrics, Metrics, DatabaseMetrics, CertificateMetrics):
        metrics(registry)
    registry.register(PoolCollector(cast("Any", _Pool())))
    assert operator_metrics.RECONCILES
    assert CONDITION_METRICS
    families = [*registry.collect(), *REGISTRY.collect()]
    return {f.name + suffix for f in families for suffix in SUFFIXES.get(f.type, ("",))}


def alert_groups() -> list[dict[str, Any]]:
    """Return the groups of alerts."""
    groups: list[dict[str, Any]] = yaml.safe_load((ROOT / ALERTS).read_text())["groups"]
    return groups


def expressions() -> list[str]:
    """Return every PromQL expression of alerts and dashboards."""
    alerts = [rule["expr"] for group in alert_groups() for rule in group["rules"]]
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    return alerts + [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


def test_every_metric_named_exists() -> None:
    """A name that was changed would make an alert that never comes."""
    named = {name for expression in expressions() for name in re.findall(r"sensorlog_\w+", expression)}
    assert len(named) > 20
    assert named - known_metrics() == set()


def test_every_alert_says_what_to_do() -> None:
    """With a severity to route it by; the documentation lists them all."""
    documented = set(re.findall(r"`(SensorLog\w+)`", (ROOT / "docs/monitoring.md").read_text()))
    groups = alert_groups()
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
    assert documented == {rule["alert"] for group in groups for rule in group["rules"]}


def test_every_alert_is_tried_both_ways() -> None:
    """One that never comes, and one that never goes, are no alerts."""
    tries = [
        attempt
        for test in yaml.safe_load((ROOT / "tests/unit/alerts.yaml").read_text())["tests"]
        for attempt in test["alert_rule_test"]
    ]
    heard = {attempt["alertname"] for attempt in tries if attempt["exp_alerts"]}
    silent = {attempt["alertname"] for attempt in tries if not attempt["exp_alerts"]}
    alerts = {rule["alert"] for group in alert_groups() for rule in group["rules"]}
    assert (alerts - heard, alerts - silent) == (set(), set())


def test_alerts_come_when_they_should() -> None:
    """And not otherwise: alerts.yaml beside this file has the cases."""
    if shutil.which("promtool") is None:
        pytest.fail("promtool, a part of Prometheus, is not on PATH: `make promtool` builds it")
    for command in (["check", "rules", "--lint-fatal", ALERTS], ["test", "rules", "tests/unit/alerts.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
