"""A collector of traces: a gRPC server of OTLP's TraceService that keeps what it is sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from support.waiting import wait_until


@dataclass(frozen=True)
class Span:
    """A span as it came: ids in hexadecimal, of the parent and of what it links to empty where there is none."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any] = field(hash=False)

    @property
    def traceparent(self) -> str:
        """The span as a W3C header."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What has come so far."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self.endpoint = ""

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802 -- the signature is OTLP's
        """Take spans in."""
        spans = [
            _span(_attributes(resource.resource).get("service.name", ""), span)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, service: str) -> list[Span]:
        """Return the spans of a service."""
        with self._lock:
            return [span for span in self._spans if span.service == service]

    def wait(self, service: str, name: str, **attributes: Any) -> list[Span]:
        """Wait until there are spans of this name that have these attributes (`_` for `.`); return them."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}.items()

        def found() -> list[Span]:
            return [s for s in self.spans(service) if s.name == name and wanted <= s.attributes.items()]

        return wait_until(found, deadline=30, what=f"a span {name} of {service} with {dict(wanted)}")


def _span(service: str, span: Any) -> Span:
    links = tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links)
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Span(service, span.name, *ids, links, _attributes(span))


def _attributes(owner: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in owner.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Yield a collector that listens at its `endpoint`."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    servicer.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
