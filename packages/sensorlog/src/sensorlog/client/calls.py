"""Calls with a deadline each, whose errors are those of `errors` and no others."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from sensorlog.client.errors import STALENESS, mapped, seconds_of
from sensorlog.rpc.logger_pb2_grpc import LoggerStub

Reply = TypeVar("Reply")
Metadata = Sequence[tuple[str, str]]


class LastAnswer(threading.local):
    """What the service said of the last answer that a thread got."""

    staleness: float | None = None
    """How old at most, in seconds; None where it did not say."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes calls of one channel; `timeout` in seconds is that of each where nothing else is said."""

    stub: LoggerStub
    timeout: float
    wait_for_ready: bool
    metadata: Metadata
    last: LastAnswer = field(default_factory=LastAnswer, compare=False, repr=False)

    def unary(self, method: "grpc.UnaryUnaryMultiCallable[Any, Reply]", request: Any) -> Reply:
        """Return the reply."""
        try:
            reply, call = method.with_call(request, **self._options(self.timeout))
        except grpc.RpcError as e:
            raise mapped(e) from e
        self._note(call)
        return reply

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Any, Reply]", request: Any, timeout: float | None
    ) -> Iterator[Reply]:
        """Yield replies as they come; whoever stops in between cancels the call."""
        call: Any = method(request, **self._options(timeout))
        try:
            yield from call
            self._note(call)
        except grpc.RpcError as e:
            raise mapped(e) from e
        finally:
            call.cancel()

    def _note(self, call: Any) -> None:
        trailing = {each.key: each.value for each in call.trailing_metadata() or ()}
        self.last.staleness = seconds_of(trailing.get(STALENESS))

    def _options(self, timeout: float | None) -> dict[str, Any]:
        return {"timeout": timeout, "wait_for_ready": self.wait_for_ready, "metadata": tuple(self.metadata)}
