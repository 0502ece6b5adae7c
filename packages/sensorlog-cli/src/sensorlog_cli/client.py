"""The query service as the commands use it: requests with a deadline, pages joined, replies as plain rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from sensorlog.measurements import Measurement
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog.timestamps import TimestampUnit
from sensorlog_cli.cluster import Cluster
from sensorlog_cli.options import QueryOptions
from sensorlog_cli.output import Row
from sensorlog_cli.pipelines import Pipeline

MAX_PAGE_SIZE = 10_000
"""The most that the contract allows in one reply."""

_MAX_REPLY_BYTES = 64 * 1024 * 1024
"""A page of 10,000 wide readings is larger than gRPC's default of 4 MiB."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which readings; bounds in the pipeline's unit, `start` included and `end` not."""

    start: int | None = None
    end: int | None = None
    sensor_ids: Sequence[int] = ()

    def fields(self) -> dict[str, Any]:
        """Return the selection as the fields that every request of readings has."""
        return {"start_ts": self.start, "end_ts": self.end, "sensor_ids": self.sensor_ids}


class QueryClient:
    """Asks one query service. Every method raises grpc.RpcError.

    `measurements` is what the pipeline declares, None where no resource was read.
    """

    def __init__(
        self,
        stub: LoggerStub,
        timeout: float,
        unit: TimestampUnit = "s",
        measurements: Sequence[Measurement] | None = None,
    ) -> None:
        self._stub = stub
        self._timeout = timeout
        self.unit: TimestampUnit = unit
        self.measurements = measurements

    def sensors(self) -> Iterator[Row]:
        """Yield every sensor that announced itself, by id."""
        page = 1
        while True:
            request = pb.ListSensorReq(page=page, page_size=MAX_PAGE_SIZE)
            results = self._stub.ListSensor(request, timeout=self._timeout).results
            yield from ({"id": s.id, "type": s.type, "location": s.location} for s in results)
            if len(results) < MAX_PAGE_SIZE:
                return
            page += 1

    def readings(self, selection: Selection, *, newest_first: bool, limit: int | None) -> Iterator[Row]:
        """Yield at most `limit` readings by (time, sensor), page by page as they are taken."""
        order = pb.ORDER_DESCENDING if newest_first else pb.ORDER_ASCENDING
        token, wanted = "", limit
        while wanted is None or wanted > 0:
            size = MAX_PAGE_SIZE if wanted is None else min(wanted, MAX_PAGE_SIZE)
            request = pb.ListSensorDataReq(page_size=size, page_token=token, order=order, **selection.fields())
            reply = self._stub.ListSensorData(request, timeout=self._timeout)
            yield from map(reading_row, reply.results)
            token = reply.next_page_token
            if not token:
                return
            wanted = None if wanted is None else wanted - len(reply.results)

    def latest(self, sensor_ids: Sequence[int]) -> Iterator[Row]:
        """Yield the last reading of each sensor."""
        request = pb.GetLatestSensorDataReq(sensor_ids=sensor_ids)
        yield from map(reading_row, self._stub.GetLatestSensorData(request, timeout=self._timeout).results)

    def averages(self, selection: Selection, bucket_seconds: int, *, per_sensor: bool) -> Iterator[Row]:
        """Yield the average of each measurement per bucket."""
        request = pb.GetSensorAvgDataReq(bucket_seconds=bucket_seconds, per_sensor=per_sensor, **selection.fields())
        yield from map(_average, self._stub.GetSensorAvgData(request, timeout=self._timeout).results)

    def averages_and_latest(self, selection: Selection, bucket_seconds: int, *, per_sensor: bool) -> Iterator[Row]:
        """Yield the average and the latest value of each measurement per bucket."""
        request = pb.GetSensorAvgAndLatestDataReq(
            bucket_seconds=bucket_seconds, per_sensor=per_sensor, **selection.fields()
        )
        for result in self._stub.GetSensorAvgAndLatestData(request, timeout=self._timeout).results:
            latest = dict(result.latest)
            if result.HasField("last_temp"):
                latest.setdefault("temperature", result.last_temp)
            yield {**_average(result), "latest": latest}


def reading_row(data: pb.SensorData) -> Row:
    """Return a reading in the form that `publish` takes; a NULL measurement is left out."""
    row: dict[str, Any] = {"ts": data.ts, "sensor_id": data.sensor_id}
    if data.HasField("temperature"):
        row["temperature"] = data.temperature
    if data.HasField("cpu"):
        row["cpu"] = data.cpu
    return row | dict(sorted(data.measurements.items()))


def _average(data: pb.SensorAvgData | pb.SensorAvgAndLatestData) -> Row:
    row: dict[str, Any] = {"period": data.period}
    if data.HasField("sensor_id"):
        row["sensor_id"] = data.sensor_id
    return row | {"count": data.count, "averages": _averages(data)}


def _averages(data: pb.SensorAvgData | pb.SensorAvgAndLatestData) -> Mapping[str, float]:
    averages = dict(sorted(data.averages.items()))
    if data.HasField("avg_temp"):
        averages.setdefault("temperature", data.avg_temp)
    if data.HasField("avg_cpu"):
        averages.setdefault("cpu", data.avg_cpu)
    return averages


@contextmanager
def connected(options: QueryOptions) -> Iterator[QueryClient]:
    """Reach the query service that `options` name: directly, or through the cluster."""
    if options.endpoint is not None:
        unit: TimestampUnit = options.timestamp_unit.value if options.timestamp_unit else "s"
        with _stub(options.endpoint) as stub:
            yield QueryClient(stub, options.timeout_seconds, unit)
        return
    cluster = Cluster(options)
    pipeline = cluster.pipeline(options.pipeline)
    with cluster.forwarded(pipeline) as address, _stub(address) as stub:
        yield QueryClient(stub, options.timeout_seconds, _unit(options, pipeline), pipeline.measurements)


def _unit(options: QueryOptions, pipeline: Pipeline) -> TimestampUnit:
    return options.timestamp_unit.value if options.timestamp_unit else pipeline.timestamp_unit


@contextmanager
def _stub(address: str) -> Iterator[LoggerStub]:
    limit = [("grpc.max_receive_message_length", _MAX_REPLY_BYTES)]
    with grpc.insecure_channel(address, options=limit) as channel:
        yield LoggerStub(channel)
