"""Calls with a deadline each, whose errors are those of `errors` and no others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from sensorlog.client.errors import mapped
from sensorlog.rpc.logger_pb2_grpc import LoggerStub

Reply = TypeVar("Reply")
Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes calls of one channel; `timeout` in seconds is that of each where nothing else is said."""

    stub: LoggerStub
    timeout: float
    wait_for_ready: bool
    metadata: Metadata

    def unary(self, method: "grpc.UnaryUnaryMultiCallable[Any, Reply]", request: Any) -> Reply:
        """Return the reply."""
        try:
            return method(request, **self._options(self.timeout))
        except grpc.RpcError as e:
            raise mapped(e) from e

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Any, Reply]", request: Any, timeout: float | None
    ) -> Iterator[Reply]:
        """Yield replies as they come; whoever stops in between cancels the call."""
        call: Any = method(request, **self._options(timeout))
        try:
            yield from call
        except grpc.RpcError as e:
            raise mapped(e) from e
        finally:
            call.cancel()

    def _options(self, timeout: float | None) -> dict[str, Any]:
        return {"timeout": timeout, "wait_for_ready": self.wait_for_ready, "metadata": tuple(self.metadata)}
