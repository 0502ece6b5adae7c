"""The query service as the commands use it: found, connected, and its answers as the rows that are shown."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorlog.client import Bucket, Client, Reading, Retries, Sensor, Tls
from sensorlog.measurements import Measurement
from sensorlog.timestamps import TimestampUnit
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import UsageError
from sensorlog_cli.options import QueryOptions, seconds
from sensorlog_cli.output import Row

RETRIES = Retries(attempts=3)
"""A second of trying again: a person waits, and can say it once more."""


@dataclass(frozen=True, slots=True)
class Source:
    """A query service. `measurements` is what the pipeline declares, None where no resource was read."""

    client: Client
    measurements: tuple[Measurement, ...] | None = None

    @property
    def unit(self) -> TimestampUnit:
        """The unit of every `ts`."""
        return self.client.timestamp_unit


@contextmanager
def connected(options: QueryOptions) -> Iterator[Source]:
    """Reach the query service that `options` name: directly, or through the cluster."""
    said: TimestampUnit | None = options.timestamp_unit.value if options.timestamp_unit else None
    if options.endpoint is not None:
        with _client(options, options.endpoint, said or "s", "") as client:
            yield Source(client)
        return
    cluster = Cluster(options)
    pipeline = cluster.pipeline(options.pipeline)
    with (
        cluster.forwarded(pipeline) as address,
        _client(
            options, address, said or pipeline.timestamp_unit, f"{pipeline.query_service}.{pipeline.namespace}.svc"
        ) as client,
    ):
        yield Source(client, pipeline.measurements)


def _client(options: QueryOptions, address: str, unit: TimestampUnit, server_name: str) -> Client:
    """Return a client; UsageError where a file of its TLS cannot be read, or a token would travel in clear."""
    secure = options.tls or options.ca_file is not None
    tls = Tls(ca_file=options.ca_file, server_name=options.server_name or server_name) if secure else None
    try:
        token = None if options.token_file is None else Path(options.token_file).read_text(encoding="utf-8").strip()
        if token is not None and tls is None:
            raise UsageError("--token-file needs --tls or --ca-file: a token must not travel in clear")
        return Client(
            address,
            timestamp_unit=unit,
            timeout=options.timeout_seconds,
            retries=RETRIES,
            tls=tls,
            metadata=[("authorization", f"Bearer {token}")] if token else (),
            max_staleness=None if options.max_staleness is None else seconds(options.max_staleness),
        )
    except OSError as e:
        raise UsageError(f"cannot read {e.filename}: {e.strerror}") from e


def sensor_row(sensor: Sensor) -> Row:
    """Return a sensor in the form that announces it."""
    return {"id": sensor.id, "type": sensor.type, "location": sensor.location}


def reading_row(reading: Reading) -> Row:
    """Return a reading in the form that `publish` takes; a NULL measurement is left out."""
    return {"ts": reading.ts, "sensor_id": reading.sensor_id, **reading.values}


def bucket_row(bucket: Bucket) -> Row:
    """Return a bucket by the contract's names; aggregates that were not asked for are left out."""
    row: dict[str, Any] = {"period": bucket.start}
    if bucket.sensor_id is not None:
        row["sensor_id"] = bucket.sensor_id
    further: Mapping[str, Mapping[str, float]] = {
        "minimums": bucket.minimums,
        "maximums": bucket.maximums,
        "firsts": bucket.firsts,
        "lasts": bucket.lasts,
    }
    asked = {name: values for name, values in further.items() if values}
    return row | {"count": bucket.count, "averages": bucket.averages, **asked}


def latest_row(bucket: Bucket) -> Row:
    """Return a bucket with its last values as `latest`."""
    row = dict(bucket_row(bucket))
    row["latest"] = row.pop("lasts", {})
    return row
