"""Tracing: a span per batch, linked to the traces of the messages."""

from opentelemetry import trace
from opentelemetry.trace import Link

from sensorlog_ingest.tracing import MAX_LINKS, links, parent
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
    """A batch of ten thousand traces does not make a span of ten thousand links."""
    messages = [traced(b"00-0af7651916cd43dd8448eb211c80319c-%016x-01" % number) for number in range(1, 10_000)]
    assert len(links(messages)) == MAX_LINKS


def test_a_trace_is_linked_once() -> None:
    """However many messages of a batch belong to it."""
    assert ids(links([traced()] * 100)) == [(TRACE_ID, SPAN_ID)]


def test_a_batch_of_one_trace_continues_it() -> None:
    """A batch of several begins one of its own, which leads to all of them."""
    one = links([traced(), traced()])
    assert trace.get_current_span(parent(one)).get_span_context().trace_id == TRACE_ID
    several = links([traced(), traced(b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b8-01")])
    assert not trace.get_current_span(parent(several)).get_span_context().is_valid
