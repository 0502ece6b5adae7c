"""Server reflection, v1 and v1alpha, on threads of its own.

A reflection stream takes a thread for as long as its caller keeps it open, and tools keep it open for as long as they
run. On the threads that serve calls, a few forgotten tools would leave none.

grpcio-reflection has v1alpha only, tools ask for v1 first. Both are the same messages in packages of different names:
https://github.com/grpc/grpc/blob/master/src/proto/grpc/reflection/v1/reflection.proto
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

STREAMS = 4
"""At work at once; more wait, which only others who ask for reflection notice."""

V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")


class _Pool:
    """The pool of all descriptions, which finds the file of a method too: `grpcurl describe` may be asked for one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 -- as the pool calls it
        """Return the file that describes `symbol`; KeyError."""
        try:
            return descriptor_pool.Default().FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return descriptor_pool.Default().FindServiceByName(service).methods_by_name[method].containing_service.file


def enable_reflection(server: grpc.Server, services: Sequence[str]) -> None:
    """Let callers of `server` ask what these `services`, and reflection itself, are made of."""
    _add_v1_to_pool()
    servicer = reflection.ReflectionServicer((*services, V1, V1ALPHA), pool=_Pool())
    behaviour: Any = partial(servicer.ServerReflectionInfo)
    # gRPC looks for this attribute, as its own health service does it.
    behaviour.experimental_thread_pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="reflection")
    method = grpc.stream_stream_rpc_method_handler(
        behaviour,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in (V1, V1ALPHA)]
    )


def _add_v1_to_pool() -> None:
    """Make the description of v1 known, so that it can be asked for as well."""
    v1alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
    text = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
    v1 = text_format.Parse(text, FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
