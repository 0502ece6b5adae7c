"""Servers under measurement as processes: the query service, and one whose method does nothing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psutil

from support.containers import free_port
from support.pipelines import Pipeline
from support.processes import ServiceProcess, peak_memory
from support.waiting import wait_until

START_SECONDS = 60


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
def query_service(pipeline: Pipeline, processes: int, module: str = "sensorlog_query") -> Iterator[Server]:
    """Run the query service with default settings but for the number of its processes; `module` starts it."""
    port = free_port()
    environment = {
        **pipeline.environment,
        "SENSORLOG_GRPC_PORT": str(port),
        "SENSORLOG_PROCESSES": str(processes),
    }
    service = ServiceProcess(module, environment, pipeline.directory / "query.log")
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


def empty_method(pipeline: Pipeline, processes: int) -> AbstractContextManager[Server]:
    """Run the same with a ListSensorData that does nothing."""
    return query_service(pipeline, processes, "benchmarks.query_empty")
