"""Calls for the last 100 readings of a sensor: at a steady rate, and as many as go."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.query_server import Server
from benchmarks.workload import SENSORS
from sensorlog.rpc import logger_pb2 as pb

METHOD = "/logger.service.v1.Logger/ListSensorData"
CHANNELS = 8
"""Connections: the kernel gives each to one of the processes, for good."""
IN_FLIGHT = 16
WARM_UP_SECONDS = 2.0

REQUESTS = [
    pb.ListSensorDataReq(sensor_ids=[sensor], order=pb.ORDER_DESCENDING, page_size=100).SerializeToString()
    for sensor in range(SENSORS)
]


@dataclass(frozen=True, slots=True)
class Saturation:
    """Calls answered in a second, and in a second of the servers' CPU: that is a core of their own."""

    requests_per_second: float
    requests_per_cpu_second: float


@contextmanager
def _methods(server: Server) -> Iterator[list[Any]]:
    """Yield the method on connections of their own, without the client's part of (de)serialising."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.target, options=options)) for _ in range(CHANNELS)]
        yield [c.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes) for c in channels]


def saturate(server: Server, seconds: float) -> Saturation:
    """Keep IN_FLIGHT calls under way for so long."""
    with _methods(server) as methods:
        _saturate(methods, WARM_UP_SECONDS)
        before, started = server.cpu_seconds(), time.monotonic()
        answered = _saturate(methods, seconds)
        elapsed, used = time.monotonic() - started, server.cpu_seconds() - before
    return Saturation(answered / elapsed, answered / used)


def _saturate(methods: list[Any], seconds: float) -> int:
    end = time.monotonic() + seconds
    numbers, answered, idle = itertools.count(), itertools.count(), threading.Semaphore(0)

    def ask() -> None:
        number = next(numbers)
        call = methods[number % CHANNELS].future(REQUESTS[number % SENSORS], timeout=10)
        call.add_done_callback(done)

    def done(call: Any) -> None:
        failed = call.exception()
        if failed is None:
            next(answered)
        if failed is None and time.monotonic() < end:
            ask()
        else:
            idle.release()

    for _ in range(IN_FLIGHT):
        ask()
    for _ in range(IN_FLIGHT):
        idle.acquire()
    total = next(answered)
    assert total == next(numbers), "some calls failed"
    return total


def latencies(server: Server, rate: int, seconds: float) -> list[float]:
    """Return the milliseconds of each call, sorted.

    Calls are due at a steady rate, whatever became of those before; a call's time counts from when it was due.
    """
    found: list[float] = []
    idle = threading.Semaphore(0)
    total = int(rate * seconds)
    with _methods(server) as methods:
        _saturate(methods, WARM_UP_SECONDS)
        start = time.perf_counter() + 0.1
        for number in range(total):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            call = methods[number % CHANNELS].future(REQUESTS[number % SENSORS], timeout=10)

            def done(call: Any, due: float = due) -> None:
                if call.exception() is None:
                    found.append((time.perf_counter() - due) * 1000)
                idle.release()

            call.add_done_callback(done)
        for _ in range(total):
            idle.acquire()
    assert len(found) == total, "some calls failed"
    return sorted(found)
