"""Tracing: a span per batch, linked to the traces of the messages."""

from opentelemetry.trace import Link

from sensorlog_ingest.tracing import MAX_LINKS, links
from support.messages import FakeMessage

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7


def traced(header: bytes = b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01") -> FakeMessage:
    """Return a message that carries a W3C trace context."""
    return FakeMessage(b"{}", the_headers=(("other", None), ("traceparent", header)))


def ids(made: list[Link]) -> list[tuple[int, int]]:
    """Return the ids that links lead to."""
    return [(link.context.trace_id, link.context.span_id) for link in made]


def test_messages_with_a_trace_context_are_linked() -> None:
    """Messages without one, or with a broken one, are not."""
    messages = [FakeMessage(b"{}"), traced(), traced(b"\xff"), traced(b"00-0-0-01")]
    assert ids(links(messages)) == [(TRACE_ID, SPAN_ID)]


def test_links_are_limited() -> None:
    """A batch of ten thousand messages does not make a span of ten thousand links."""
    assert len(links([traced()] * 10_000)) == MAX_LINKS
