"""One span per reconcile: the statements that it sends to the database are its children.

`opentelemetry-instrument` sets the provider when OTEL_EXPORTER_OTLP_ENDPOINT is there; otherwise spans go nowhere.
"""

from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace import Span


def reconcile(key: str) -> AbstractContextManager[Span]:
    """Return the span of a reconcile of the pipeline `key`; an exception that passes through marks it as failed."""
    tracer = trace.get_tracer("sensorlog.operator")
    return tracer.start_as_current_span("reconcile", attributes={"sensorlog.pipeline": key})
