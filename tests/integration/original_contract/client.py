"""A client of the original contract, for a process of its own.

Two versions of one protobuf package cannot share a process: they would share its descriptor pool.

Usage: client.py FOLDER TARGET METHOD [FIELD=NUMBER ...], where FOLDER holds the stubs generated from logger.proto.
Prints the reply as JSON, with fields that have their default value.
"""

import sys
from importlib import import_module

import grpc
from google.protobuf.json_format import MessageToJson


def main(folder: str, target: str, method: str, *fields: str) -> None:
    """Call `method` with `fields` and print the reply."""
    sys.path.insert(0, folder)
    logger_pb2, logger_pb2_grpc = import_module("logger_pb2"), import_module("logger_pb2_grpc")

    request = getattr(logger_pb2, f"{method}Req")()
    for field in fields:
        name, _, number = field.partition("=")
        setattr(request, name, int(number))
    with grpc.insecure_channel(target) as channel:
        reply = getattr(logger_pb2_grpc.LoggerStub(channel), method)(request, timeout=30)
    text = MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    sys.stdout.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
