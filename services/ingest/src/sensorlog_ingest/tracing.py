"""One span per batch, linked to the traces of its messages. Costs nothing while no tracing is configured.

`opentelemetry-instrument` sets the provider when OTEL_EXPORTER_OTLP_ENDPOINT is there; otherwise spans go nowhere.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sensorlog_ingest.batches import Batch
from sensorlog_ingest.messages import Message, headers_of

MAX_LINKS = 32
"""Messages of a batch whose traces are linked; the API's default limit is 128 per span."""

TRACEPARENT = "traceparent"


class Tracer:
    """Makes the spans of batches."""

    def __init__(self) -> None:
        self._enabled = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        self._tracer = trace.get_tracer("sensorlog.ingest")

    def batch(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the span of writing a batch. Attributes follow OpenTelemetry's messaging conventions."""
        return self._span(batch) if self._enabled else nullcontext()

    @contextmanager
    def _span(self, batch: Batch) -> Iterator[None]:
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.batch.message_count": batch.messages,
            "db.system.name": "postgresql",
            "sensorlog.rows": len(batch.readings),
        }
        with self._tracer.start_as_current_span(
            "write batch", kind=SpanKind.CONSUMER, links=links(batch.reading_messages), attributes=attributes
        ):
            yield


def links(messages: Iterable[Message]) -> list[Link]:
    """Return links to the first MAX_LINKS trace contexts among the messages' headers."""
    contexts = (context for message in messages if (context := _context(message)) and context.is_valid)
    return [Link(context) for context in itertools.islice(contexts, MAX_LINKS)]


def _context(message: Message) -> SpanContext | None:
    for name, value in headers_of(message):
        if name.lower() == TRACEPARENT and value:
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            context = TraceContextTextMapPropagator().extract({TRACEPARENT: text})
            return trace.get_current_span(context).get_span_context()
    return None
