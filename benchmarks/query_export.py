"""Exports beside the plain COPY of the same query, and what the encoding alone takes."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
from psycopg import ClientCursor

from benchmarks.query_server import Server
from sensorlog.measurements import names
from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.connections import configure, connection_parameters
from sensorlog_query.copy_binary import FLOAT, INTEGER, blocks
from sensorlog_query.exports import rows_per_message
from sensorlog_query.microseconds import BEGINNING, END
from sensorlog_query.replies import Replies
from sensorlog_query.sql import Statements
from support.pipelines import Pipeline

BUFFER_BYTES = 1024 * 1024
READY = b"Z\0\0\0\5I"
"""ReadyForQuery, idle: the last message of an answer, https://www.postgresql.org/docs/17/protocol-message-formats.html"""
ANSWER_SECONDS = 60
EXPORT = "/logger.service.v1.Logger/ExportSensorData"
LARGEST_MESSAGE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Export:
    """One export of everything. CPU seconds are the service's, database and client not counted."""

    rows_per_second: float
    rows_per_cpu_second: float
    peak_memory_mib: float


def copy_to_nothing(pipeline: Pipeline, rows: int) -> float:
    """Return the rows per second of the service's own COPY, of which the client throws every byte away unseen.

    It reads the socket past libpq, which would cut the stream into rows: no client can be faster.
    """
    with psycopg.connect(pipeline.database.uri, **connection_parameters("benchmark")) as connection:
        configure(connection)
        statement = ClientCursor(connection).mogrify(_statement(pipeline), _everything())
        started = time.monotonic()
        connection.pgconn.send_query(statement.encode())
        while connection.pgconn.flush():
            pass
        received = _drain(connection)
        seconds = time.monotonic() - started
        connection.pgconn.finish()
    assert received > rows * 8 * (2 + len(pipeline.config.measurements)), received
    return rows / seconds


def _drain(connection: "psycopg.Connection[Any]") -> int:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    received, end = 0, b""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as wire:
        wire.settimeout(ANSWER_SECONDS)
        while end != READY:
            size = wire.recv_into(buffer)
            assert size, "the database hung up"
            received += size
            end = (end + bytes(buffer[max(0, size - len(READY)) : size]))[-len(READY) :]
    return received


def export(server: Server, rows: int) -> Export:
    """Let the service export everything to a client that throws it away unseen."""
    options = [("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        call: Any = channel.unary_stream(EXPORT, request_serializer=bytes, response_deserializer=bytes)
        before = server.cpu_seconds()
        started = time.monotonic()
        received = sum(len(message) for message in call(b""))
        seconds = time.monotonic() - started
    assert received > rows * 8 * 4, received
    return Export(rows / seconds, rows / (server.cpu_seconds() - before), server.peak_memory_mib())


def encoding_rate(pipeline: Pipeline, rows: int) -> float:
    """Return the rows per CPU second from the bytes of a COPY that are in memory to the bytes of the replies."""
    stream = list(_copied(pipeline))
    measurements = names(pipeline.config.measurements)
    columns = (INTEGER, INTEGER, *(FLOAT for _ in measurements))
    replies = Replies(pipeline.config.timestamp_unit, measurements)
    started = time.process_time()
    encoded = 0
    for block in blocks(stream, columns, rows_per_message(len(columns))):
        encoded += len(block)
        replies.columns(block, measurements).SerializeToString()
    assert encoded == rows, encoded
    return rows / (time.process_time() - started)


def _copied(pipeline: Pipeline) -> Iterator[bytes]:
    with psycopg.connect(pipeline.database.uri, **connection_parameters("benchmark")) as connection:
        configure(connection)
        with connection.cursor(binary=True).copy(_statement(pipeline), _everything()) as copy:
            for part in copy:
                yield bytes(part)


def _statement(pipeline: Pipeline) -> Any:
    measurements = names(pipeline.config.measurements)
    return Statements(pipeline.schema, measurements).export(measurements, of_sensors=False)


def _everything() -> dict[str, Any]:
    return {"start": BEGINNING, "end": END}


def check(server: Server, rows: int) -> None:
    """Assert that an export holds every row once: what was measured is an export."""
    options = [("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        call: Any = channel.unary_stream(
            EXPORT,
            request_serializer=pb.ExportSensorDataReq.SerializeToString,
            response_deserializer=pb.ExportSensorDataReply.FromString,
        )
        last, count = (0, -1), 0
        for message in call(pb.ExportSensorDataReq()):
            keys = list(zip(message.ts, message.sensor_id, strict=True))
            assert keys == sorted(set(keys)), "not in order, or twice"
            assert keys[0] > last, "not in order, or twice"
            last, count = keys[-1], count + len(keys)
    assert count == rows, count
