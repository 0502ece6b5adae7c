"""Two spans per batch, what was read and what was stored, that lead to the traces of its messages.

Costs nothing while no tracing is configured.

`opentelemetry-instrument` sets the provider when OTEL_EXPORTER_OTLP_ENDPOINT is there; otherwise spans go nowhere.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sensorlog_ingest.batches import Batch
from sensorlog_ingest.messages import Message, headers_of

MAX_LINKS = 32
"""Messages of a batch whose traces are linked; the API's default limit is 128 per span."""

MAX_READ = 1000
"""Trace contexts of a batch that are looked at, to find these."""

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
        origins = links(batch.reading_messages)
        received = self._tracer.start_as_current_span(
            "write batch",
            context=parent(origins),
            kind=SpanKind.CONSUMER,
            links=origins,
            attributes={
                "messaging.system": "kafka",
                "messaging.batch.message_count": batch.messages,
                "sensorlog.rows": len(batch.readings),
            },
        )
        # One for the whole transaction: a span for each of its statements would tell little more.
        stored = {"db.system.name": "postgresql", "db.operation.name": "COPY", "db.collection.name": "sensor_data"}
        with (
            received,
            self._tracer.start_as_current_span("COPY sensor_data", kind=SpanKind.CLIENT, attributes=stored),
        ):
            yield


def links(messages: Iterable[Message]) -> list[Link]:
    """Return links to the first MAX_LINKS distinct trace contexts among the messages' headers."""
    contexts = (context for message in messages if (context := _context(message)) and context.is_valid)
    distinct = {(context.trace_id, context.span_id): context for context in itertools.islice(contexts, MAX_READ)}
    return [Link(context) for context in itertools.islice(distinct.values(), MAX_LINKS)]


def parent(origins: Sequence[Link]) -> Context:
    """Return the context that a batch continues: that of its messages if they have but one, else a trace of its own.

    Source: OpenTelemetry's conventions for messaging spans, "Trace structure".
    """
    if len(origins) != 1:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(origins[0].context), Context())


def _context(message: Message) -> SpanContext | None:
    for name, value in headers_of(message):
        if name.lower() == TRACEPARENT and value:
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            context = TraceContextTextMapPropagator().extract({TRACEPARENT: text}, Context())
            return trace.get_current_span(context).get_span_context()
    return None
