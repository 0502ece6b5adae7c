"""Servers under measurement as processes: the query service, and one whose method does nothing."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import psutil

from support.containers import free_port
from support.pipelines import Pipeline
from support.processes import ServiceProcess, peak_memory
from support.waiting import wait_until

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens and which processes it is."""

    target: str
    processes: tuple[psutil.Process, ...]

    def cpu_seconds(self) -> float:
        """Return how much CPU its processes have used."""
        times = [process.cpu_times() for process in self.processes]
        return sum(t.user + t.system for t in times)

    def peak_memory_mib(self) -> float:
        """Return the peak of resident memory of the largest process."""
        return max(peak_memory(process.pid) for process in self.processes) / 2**20


@contextmanager
def query_service(pipeline: Pipeline, processes: int) -> Iterator[Server]:
    """Run the query service with default settings but for the number of its processes."""
    port = free_port()
    environment = {
        **pipeline.environment,
        "SENSORLOG_GRPC_PORT": str(port),
        "SENSORLOG_PROCESSES": str(processes),
    }
    service = ServiceProcess("sensorlog_query", environment, pipeline.directory / "query.log")
    try:
        service.wait_ready()
        up = "sensorlog_query_database_up"
        wait_until(lambda: service.metric(up) == processes, deadline=START_SECONDS, what="all processes to be up")
        parent = psutil.Process(service.process.pid)
        children = [c for c in parent.children(recursive=True) if "spawn_main" in " ".join(c.cmdline())]
        yield Server(f"127.0.0.1:{port}", tuple(children or [parent]))
        assert service.stop() == 0, service.logs
    finally:
        if service.is_running:
            service.kill()


@contextmanager
def empty_method(processes: int) -> Iterator[Server]:
    """Run as many processes of benchmarks.query_empty on one port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.query_empty", str(port)]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        target = f"127.0.0.1:{port}"
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
        listening = [psutil.Process(process.pid) for process in started]
        wait_until(
            lambda: all(any(c.status == psutil.CONN_LISTEN for c in p.net_connections()) for p in listening),
            deadline=START_SECONDS,
            what="all processes to listen",
        )
        yield Server(target, tuple(listening))
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
