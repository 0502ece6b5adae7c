"""What the operator counts of itself, for Prometheus."""

import contextlib

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter(
    "sensorlog_operator_reconciles_total",
    "Reconciles by result: done, retry (something is away), error (a bug or the API server is away).",
    ["result"],
)
RECONCILE_SECONDS = Histogram(
    "sensorlog_operator_reconcile_duration_seconds",
    "Time of one reconcile.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ERRORS = Counter(
    "sensorlog_operator_errors_total",
    "What kept a part of a reconcile from its end, by the condition's reason: which API was away or refused.",
    ["reason"],
)
DRIFT = Counter(
    "sensorlog_operator_drift_total",
    "Changes made by hand: repaired, or reported and left as they are. Each is counted when it is found.",
    ["state"],
)
KAFKA_REQUESTS = Counter(
    "sensorlog_operator_kafka_requests_total",
    "Requests to brokers, by operation of the admin interface. One may be about the topics of many pipelines.",
    ["operation"],
)
QUEUE_LENGTH = Gauge("sensorlog_operator_queue_length", "Pipelines that wait for a worker.")
QUEUE_AGE = Gauge("sensorlog_operator_queue_age_seconds", "How long the first of them has been waiting.")
CANARY_SECONDS = Gauge(
    "sensorlog_operator_canary_latency_seconds",
    "Time of the last canary that came from the topic to an answer; gone where the last one did not come.",
    ["pipeline"],
)
CANARIES = Counter(
    "sensorlog_operator_canaries_total",
    "Canaries by whether they came to an answer: came or lost.",
    ["pipeline", "result"],
)
PIPELINES = Gauge("sensorlog_operator_pipelines", "Pipelines that exist.")


def note_canary(pipeline: str, seconds: float | None) -> None:
    """Count a canary that took `seconds`, or did not come."""
    CANARIES.labels(pipeline, "lost" if seconds is None else "came").inc()
    if seconds is not None:
        CANARY_SECONDS.labels(pipeline).set(seconds)
    else:
        _remove(CANARY_SECONDS, pipeline)


def forget_canary(pipeline: str) -> None:
    """Tell nothing of a pipeline's canaries any more."""
    _remove(CANARY_SECONDS, pipeline)
    for result in ("came", "lost"):
        _remove(CANARIES, pipeline, result)


def _remove(metric: Counter | Gauge, *labels: str) -> None:
    with contextlib.suppress(KeyError):
        metric.remove(*labels)
