"""Services under test as real processes: started, watched, stopped, killed, frozen."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from support.containers import free_port
from support.waiting import wait_for_value, wait_until

STOP_SECONDS = 25
"""A little more than a service may take to stop."""

Labels = Mapping[str, str]


@dataclass
class ServiceProcess:
    """`python -m MODULE` with its settings in the environment and its logs in a file.

    `command` is another way to start the module, such as an image's entry point.
    """

    module: str
    environment: Mapping[str, str]
    log_path: Path
    telemetry_port: int = field(default_factory=free_port)
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SENSORLOG_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command or [sys.executable, "-m", self.module],
                env={**inherited, **self.environment, "SENSORLOG_TELEMETRY_PORT": str(self.telemetry_port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def logs(self) -> str:
        """Everything the process has written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of the telemetry port's `path`: /livez, /readyz or /metrics."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.telemetry_port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()

    def metric(self, name: str, labels: Labels | None = None) -> float:
        """Return the sum of a sample over all label sets that contain `labels`; 0 where there is none."""
        wanted = (labels or {}).items()
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == name and wanted <= sample.labels.items()
        )

    @property
    def peak_memory(self) -> int:
        """The most resident memory the process ever had, in bytes."""
        return peak_memory(self.process.pid)

    def wait_ready(self, deadline: float = 60) -> "ServiceProcess":
        """Wait until /readyz says ok; return self."""

        def probe() -> tuple[int, str]:
            assert self.is_running, f"{self.module} ended with {self.process.returncode}:\n{self.logs[-4000:]}"
            return self.get("/readyz")

        wait_until(probe, lambda reply: reply[0] == 200, deadline=deadline, what=f"{self.module} to be ready")
        return self

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process (SIGSTOP) and wait until no thread of it runs any more; `thaw` lets it go on."""
        self.send(signal.SIGSTOP)
        frozen = psutil.Process(self.process.pid)
        wait_for_value(frozen.status, psutil.STATUS_STOPPED, deadline=10, what="the process's state")

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End the process as `kill -9` does; its threads have no say."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self, deadline: float = STOP_SECONDS) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(deadline)

    def clean_up(self) -> None:
        """End the process, and print its logs for the report of a failed test."""
        self.end()
        header = f"--- {self.module}, pid {self.process.pid}, exit {self.process.returncode}:"
        sys.stdout.write(f"{header}\n{self.logs[-20_000:]}\n")

    def end(self) -> None:
        """End the process whatever state it is in."""
        if self.is_running:
            self.thaw()  # a frozen process would not hear SIGTERM
            self.send(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


def peak_memory(pid: int) -> int:
    """Return the most resident memory a process ever had, in bytes; Linux keeps it as VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


StartService = Callable[..., ServiceProcess]
"""What the fixtures start_service and start_ingest are; see conftest.py."""
