"""Reads a pipeline's query service from Python.

    from sensorlog.client import Client

    with Client("localhost:50051") as client:
        for reading in client.readings(sensor_ids=[1], limit=10):
            print(reading.ts, reading.values.get("temperature"))
        table = client.export().to_arrow()

Needs the extra `client` of sensorlog (`pip install 'sensorlog[client]'`), for Arrow `arrow`, for pandas `pandas`. What
it raises is in `sensorlog.client.errors`, the guide in docs/python-client.md.
"""

from sensorlog.client.errors import (
    AccessError,
    CallError,
    DeadlineError,
    ExportInterruptedError,
    InvalidRequestError,
    LimitError,
    MissingExtraError,
    SensorLogError,
    ServiceError,
    StaleError,
    UnavailableError,
    UnsupportedError,
)
from sensorlog.client.extras import require

for _module in ("numpy", "google.rpc"):
    require(_module, "client")

from sensorlog.client.api import Client  # noqa: E402 -- these need what was just asked for
from sensorlog.client.blocks import Block  # noqa: E402
from sensorlog.client.channel import Retries, Tls  # noqa: E402
from sensorlog.client.export import Export  # noqa: E402
from sensorlog.client.rows import Aggregate, Bucket, Reading, Sensor  # noqa: E402
from sensorlog.client.watch import Missed, MissedReason, Watch, WatchEvent  # noqa: E402

__all__ = [
    "AccessError",
    "Aggregate",
    "Block",
    "Bucket",
    "CallError",
    "Client",
    "DeadlineError",
    "Export",
    "ExportInterruptedError",
    "InvalidRequestError",
    "LimitError",
    "Missed",
    "MissedReason",
    "MissingExtraError",
    "Reading",
    "Retries",
    "Sensor",
    "SensorLogError",
    "ServiceError",
    "StaleError",
    "Tls",
    "UnavailableError",
    "UnsupportedError",
    "Watch",
    "WatchEvent",
]
