"""What the operator counts of itself, for Prometheus."""

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
QUEUE_LENGTH = Gauge("sensorlog_operator_queue_length", "Pipelines that wait for a worker.")
QUEUE_AGE = Gauge("sensorlog_operator_queue_age_seconds", "How long the first of them has been waiting.")
PIPELINES = Gauge("sensorlog_operator_pipelines", "Pipelines that exist.")
