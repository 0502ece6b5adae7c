"""Server reflection on threads of its own.

A reflection stream takes a thread for as long as its caller keeps it open, and tools keep it open for as long as they
run. On the threads that serve calls, a few forgotten tools would leave none.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

STREAMS = 4
"""At work at once; more wait, which only others who ask for reflection notice."""


def enable_reflection(server: grpc.Server, services: Sequence[str]) -> None:
    """Let callers of `server` ask what these `services`, and reflection itself, are made of."""
    servicer = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME))
    behaviour: Any = partial(servicer.ServerReflectionInfo)
    # gRPC looks for this attribute, as its own health service does it.
    behaviour.experimental_thread_pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="reflection")
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add(SimpleNamespace(ServerReflectionInfo=behaviour), server)
