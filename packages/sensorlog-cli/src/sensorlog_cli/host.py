"""This machine as a set of sensors: the load of each core, and every temperature sensor the kernel shows.

    sensor_id = crc32(hostname) * 10000 + n
    n = 0..4999      the core of that number
    n = 5000..9999   the temperature sensors, counted in the order of (chip, position on the chip)

So an id stays the same as long as the machine does, its last digits say which core, machines that share a pipeline
do not collide, and it is below 2**53: programs that read JSON numbers as doubles keep it.
"""

import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from sensorlog.timestamps import TimestampUnit, from_datetime
from sensorlog_cli.errors import CliError

CPU = "cpu"
TEMPERATURE = "temperature"
_FIRST_TEMPERATURE = 5_000
_IDS_PER_HOST = 10_000


@dataclass(frozen=True, slots=True)
class HostSensor:
    """One sensor of this machine; `announcement` is its message on the topic of sensors."""

    id: int
    type: str
    location: str

    def announcement(self) -> dict[str, Any]:
        """Return the message that makes the sensor known."""
        return {"id": self.id, "type": self.type, "location": self.location}


class Host:
    """Reads this machine. `measured` names the measurements that the pipeline takes.

    Raises CliError when the pipeline takes none that this machine has.
    """

    def __init__(self, measured: Iterable[str], unit: TimestampUnit, hostname: str | None = None) -> None:
        self._unit: TimestampUnit = unit
        self._name = hostname or socket.gethostname()
        self._base = zlib.crc32(self._name.encode()) * _IDS_PER_HOST
        self._measured = frozenset(measured)
        self.sensors = [*self._cores(), *self._thermometers()]
        if not self.sensors:
            raise CliError(
                f"this machine measures cpu{' and temperature' if _temperatures() else ''}, and the pipeline declares "
                f"neither as a measurement (it has {', '.join(sorted(self._measured))})"
            )
        psutil.cpu_percent(percpu=True)  # the first call has nothing to compare with and would say 0

    def _cores(self) -> Iterator[HostSensor]:
        if CPU in self._measured:
            for core in range(psutil.cpu_count() or 1):
                yield HostSensor(self._base + core, f"cpu core {core}", self._name)

    def _thermometers(self) -> Iterator[HostSensor]:
        if TEMPERATURE in self._measured:
            for n, (label, _) in enumerate(_temperatures()):
                yield HostSensor(self._base + _FIRST_TEMPERATURE + n, f"temperature {label}", self._name)

    def read(self) -> list[dict[str, Any]]:
        """Return one reading of every sensor: load in percent since the read before, temperature in Celsius."""
        ts = from_datetime(datetime.now(UTC), self._unit)
        return [{"ts": ts, **values} for values in (*self._loads(), *self._degrees())]

    def _loads(self) -> Iterator[dict[str, Any]]:
        if CPU in self._measured:
            for core, load in enumerate(psutil.cpu_percent(percpu=True)):
                yield {"sensor_id": self._base + core, CPU: load}

    def _degrees(self) -> Iterator[dict[str, Any]]:
        if TEMPERATURE in self._measured:
            for n, (_, degrees) in enumerate(_temperatures()):
                yield {"sensor_id": self._base + _FIRST_TEMPERATURE + n, TEMPERATURE: degrees}


def _temperatures() -> list[tuple[str, float]]:
    """Return (label, degrees Celsius) of each temperature sensor; none where the platform shows none."""
    read = getattr(psutil, "sensors_temperatures", None)  # missing on macOS and Windows
    chips = read() if read else {}
    return [
        (f"{chip} {sensor.label or position}", sensor.current)
        for chip, sensors in sorted(chips.items())
        for position, sensor in enumerate(sensors)
    ]


def ticks(
    duration: float,
    interval: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Yield 0, 1, ... every `interval` seconds, after each interval has passed, until `duration` seconds have.

    A tick is due at its place in the whole and not an interval after the one before, so that no delay adds up.
    """
    start = clock()
    for tick in range(count_of_ticks(duration, interval)):
        sleep(max(0.0, start + (tick + 1) * interval - clock()))
        yield tick


def count_of_ticks(duration: float, interval: float) -> int:
    """Return how many ticks fit; at least one."""
    return max(1, int(duration / interval))
