"""Several processes on one port: Python uses one core at a time, the kernel shares connections out among them.

Each process listens on the port itself (SO_REUSEPORT, https://lwn.net/Articles/542629/), with a pool, threads and
limits of its own. The supervisor starts them anew, never as a fork of a process in which gRPC is at work, starts one
again that ends, passes SIGTERM on, and shows all of them on the one telemetry port.
"""

import multiprocessing
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

import structlog
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sensorlog.pipeline import PipelineConfig
from sensorlog.telemetry import Health, StopSignal, TelemetryServer
from sensorlog_query.process import serve_as_child
from sensorlog_query.reports import Reporter
from sensorlog_query.server import BindError
from sensorlog_query.settings import Settings

log = structlog.get_logger()

LOOK_SECONDS = 0.2
RESTART_SECONDS = 1.0
"""Between two starts of a process, so that one that cannot run does not keep the machine busy."""
STOP_MARGIN_SECONDS = 5.0
"""Beyond the time that calls are given, before a process is killed."""
SILENCE = "does not answer"


@dataclass(slots=True)
class Child:
    """One process, and the way to ask it."""

    process: SpawnProcess
    reporter: Reporter
    started: float


class Supervisor:
    """Keeps `settings.processes` processes running until SIGTERM."""

    def __init__(self, settings: Settings, pipeline: PipelineConfig) -> None:
        self._reserved = _reserved(settings.grpc_port)
        self._settings = settings.model_copy(update={"grpc_port": self._reserved.getsockname()[1]})
        self._pipeline = pipeline
        self._context = multiprocessing.get_context("spawn")
        self._children: dict[int, Child] = {}
        self._registry = CollectorRegistry()
        self._registry.register(Processes(self._children))
        self._restarts = Counter(
            "sensorlog_query_process_restarts", "Processes that ended and were started again.", registry=self._registry
        )

    def run(self, stop: StopSignal) -> bool:
        """Serve until `stop`; return whether every process then ended in order."""
        health = Health()
        health.liveness.append(lambda: _problem(self._children, "liveness"))
        health.readiness.append(lambda: _problem(self._children, "readiness"))
        telemetry = TelemetryServer(self._settings.telemetry_port, health, self._registry)
        telemetry.start()
        for number in range(self._settings.processes):
            self._start(number)
        log.info("supervising", processes=self._settings.processes, port=self._settings.grpc_port)
        while not stop.is_set():
            self._revive()
            wait([child.process.sentinel for child in self._children.values()], LOOK_SECONDS)
        log.info("stopping", grace_seconds=self._settings.shutdown_seconds)
        in_order = self._stop()
        telemetry.stop()
        self._reserved.close()
        return in_order

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve_as_child, args=(self._settings, self._pipeline, theirs), name=f"query-{number}"
        )
        process.start()
        theirs.close()
        self._children[number] = Child(process, Reporter(ours), time.monotonic())

    def _revive(self) -> None:
        for number, child in list(self._children.items()):
            rested = time.monotonic() - child.started > RESTART_SECONDS
            if not child.process.is_alive() and rested:
                log.error("a process ended and is started again", process=number, exit_code=child.process.exitcode)
                child.reporter.close()
                self._restarts.inc()
                self._start(number)

    def _stop(self) -> bool:
        processes = [child.process for child in self._children.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._settings.shutdown_seconds + STOP_MARGIN_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        return all(process.exitcode == 0 for process in processes)


class Processes(Collector):
    """The metrics of all processes, each sample with the label `process`: Prometheus knows best how to add them up."""

    def __init__(self, children: dict[int, Child]) -> None:
        self._children = children

    def describe(self) -> list[Metric]:
        """Return nothing: nobody need be asked before there are processes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of every process that answers."""
        merged: dict[str, Metric] = {}
        for number, child in sorted(self._children.items()):
            report = child.reporter.ask()
            for family in text_string_to_metric_families(report.metrics) if report else ():
                metric = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, "process": str(number)}, sample.value)
        yield from merged.values()


def _problem(children: dict[int, Child], kind: str) -> str | None:
    """Return why the processes fail a check; None where they pass.

    Alive are they when each one is: an ended one is being started again, one that hangs keeps its share of the
    connections. Ready are they when any one is: a process that is not up yet does not listen and gets no calls.
    """
    problems: list[str] = []
    ready = 0
    for number, child in sorted(children.items()):
        if not child.process.is_alive():
            continue
        report = child.reporter.ask()
        found = [SILENCE] if report is None else getattr(report, kind)
        ready += not found
        problems += [f"process {number}: {problem}" for problem in found]
    if kind == "readiness" and ready:
        return None
    return "\n".join(problems) or (None if kind == "liveness" else "no process is up")


def _reserved(port: int) -> socket.socket:
    """Return a socket that keeps the port for this service without listening; BindError where it is taken.

    The first bind is without SO_REUSEPORT: it must not succeed beside a stranger's.
    """
    for is_shared in (False, True):
        has_ipv6 = socket.has_dualstack_ipv6()
        reserved = socket.socket(socket.AF_INET6 if has_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
        if has_ipv6:
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            reserved.bind(("", port))
        except OSError as e:
            reserved.close()
            raise BindError(f"cannot listen on port {port}: {e.strerror}") from e
        port = reserved.getsockname()[1]
        if not is_shared:
            reserved.close()
    return reserved
