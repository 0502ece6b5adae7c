"""The client: the methods of the contract with Python's types."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import grpc

from sensorlog.client.calls import Calls, Metadata
from sensorlog.client.channel import Retries, Tls, open_channel
from sensorlog.client.export import Export, OnResumed, Patience, Selection
from sensorlog.client.rows import (
    AGGREGATES,
    Aggregate,
    Bucket,
    Reading,
    Sensor,
    bucket_of,
    reading_of,
    sensor_of,
)
from sensorlog.client.watch import PATIENCE, Watch
from sensorlog.client.watch import OnResumed as OnWatchResumed
from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from sensorlog.timestamps import EPOCH, PER_SECOND, TimestampUnit

MAX_STALENESS = "max-staleness-ms"

MAX_PAGE_SIZE = 10_000
"""The most that the contract allows in one reply."""

TIMEOUT = 30.0
EXPORT_TIMEOUT = 3600.0
"""In seconds: the service's own limits unless it is set up otherwise."""

Moment = int | datetime
"""A `ts` in the pipeline's unit, or an aware datetime."""


class Client:
    """A query service at `target`, `host:port` or any gRPC name (`dns:///`, `unix:`). Use it as a context manager.

    `timestamp_unit` is the pipeline's, which the service does not tell. `timeout` is that of each call in seconds,
    retries included. The channel is in plain text without `tls` or, for anything else, `credentials`; `metadata` goes
    with each call. Calls go round all addresses that the name of the target has.

    With `wait_for_ready` a call waits for a service that cannot be reached until its timeout; without, it fails as
    soon as `retries` are used up, so that a wrong address shows in seconds. A program that must outlast any outage
    shorter than its timeout sets it.

    `max_staleness` is how old an answer may be, in seconds, where the service reads from a replica: it refuses with
    StaleError, or asks the primary, rather than give an older one. 0 is for the primary alone.

    Every method raises the errors of `sensorlog.client.errors`. A client may be used by many threads.
    """

    def __init__(
        self,
        target: str,
        *,
        timestamp_unit: TimestampUnit = "s",
        timeout: float = TIMEOUT,
        retries: Retries = Retries(),  # noqa: B008 -- it is immutable
        wait_for_ready: bool = False,
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        max_staleness: float | None = None,
    ) -> None:
        self.timestamp_unit: TimestampUnit = timestamp_unit
        self._channel = open_channel(target, retries=retries, tls=tls, credentials=credentials)
        bound = () if max_staleness is None else ((MAX_STALENESS, str(int(max_staleness * 1000))),)
        self._calls = Calls(LoggerStub(self._channel), timeout, wait_for_ready, (*metadata, *bound))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls under way are cancelled."""
        self._channel.close()

    @property
    def staleness(self) -> float | None:
        """How old the last answer that this thread got may be, in seconds: 0 from a primary, None before the first.

        An export's is that of its beginning, and there when it is at its end.
        """
        return self._calls.last.staleness

    def list_sensors(self) -> Iterator[Sensor]:
        """Yield every sensor that announced itself, by id, page by page as they are taken."""
        page = 1
        while True:
            request = pb.ListSensorReq(page=page, page_size=MAX_PAGE_SIZE)
            results = self._calls.unary(self._calls.stub.ListSensor, request).results
            yield from map(sensor_of, results)
            if len(results) < MAX_PAGE_SIZE:
                return
            page += 1

    def readings(
        self,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        sensor_ids: Iterable[int] = (),
        newest_first: bool = False,
        limit: int | None = None,
        page_size: int = 1_000,
    ) -> Iterator[Reading]:
        """Yield at most `limit` readings with start <= time < end by (time, sensor_id), page by page as they are taken.

        Pages follow each other by token: readings that arrive meanwhile neither shift nor repeat what is read. For
        more than some ten thousand readings `export` is faster.
        """
        order = pb.ORDER_DESCENDING if newest_first else pb.ORDER_ASCENDING
        fields = self._selection(start, end, sensor_ids).fields()
        token, wanted = "", limit
        while wanted is None or wanted > 0:
            size = page_size if wanted is None else min(wanted, page_size)
            request = pb.ListSensorDataReq(page_size=size, page_token=token, order=order, **fields)
            reply = self._calls.unary(self._calls.stub.ListSensorData, request)
            yield from map(reading_of, reply.results)
            token = reply.next_page_token
            if not token:
                return
            wanted = None if wanted is None else wanted - len(reply.results)

    def latest(self, sensor_ids: Iterable[int] = ()) -> list[Reading]:
        """Return the last reading of each sensor, or of each of `sensor_ids`, by sensor_id."""
        request = pb.GetLatestSensorDataReq(sensor_ids=sensor_ids)
        return [reading_of(m) for m in self._calls.unary(self._calls.stub.GetLatestSensorData, request).results]

    def averages(
        self,
        *,
        bucket: timedelta | int = 1_800,
        start: Moment | None = None,
        end: Moment | None = None,
        sensor_ids: Iterable[int] = (),
        per_sensor: bool = False,
        aggregates: Iterable[Aggregate | str] = (),
        fill_gaps: bool = False,
        time_zone: str = "",
        with_latest: bool = False,
    ) -> list[Bucket]:
        """Return the average of each measurement per bucket of time, by start and sensor_id.

        `bucket` is the width, in whole seconds where it is a number. `per_sensor`: one series a sensor instead of one
        over all. `aggregates`: also `min`, `max`, `first`, `last`. `fill_gaps`: buckets without readings too, with
        count 0, for which `start` and `end` must be given. `time_zone`: IANA name of the zone at whose midnights days
        begin, by default UTC. `with_latest`: as `last`, by the method that services of the original contract have.
        At most 100,000 buckets, else LimitError.
        """
        request = {
            **self._selection(start, end, sensor_ids).fields(),
            "bucket_seconds": _seconds(bucket),
            "per_sensor": per_sensor,
            "aggregates": [AGGREGATES[Aggregate(each)] for each in aggregates],
            "fill_gaps": fill_gaps,
            "time_zone": time_zone,
        }
        stub = self._calls.stub
        if with_latest:
            with_lasts = pb.GetSensorAvgAndLatestDataReq(**request)
            return [bucket_of(m) for m in self._calls.unary(stub.GetSensorAvgAndLatestData, with_lasts).results]
        return [
            bucket_of(m) for m in self._calls.unary(stub.GetSensorAvgData, pb.GetSensorAvgDataReq(**request)).results
        ]

    def export(
        self,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        sensor_ids: Iterable[int] = (),
        measurements: Iterable[str] = (),
        timeout: float = EXPORT_TIMEOUT,
        resumptions: int = 3,
        on_resumed: OnResumed | None = None,
    ) -> Export:
        """Return all readings with start <= time < end as an Export; nothing is asked before it is read.

        `measurements` are the columns in this order, by default all that the pipeline declares. Where the service
        goes away in the middle, the export is continued after the last whole moment, `resumptions` times in a row
        without getting any further; `on_resumed` hears of it. What follows then is another snapshot: a reading that
        arrived meanwhile with an earlier time is missing. 0 rather raises ExportInterruptedError.
        """
        patience = Patience(timeout, resumptions, on_resumed)
        selection = self._selection(start, end, sensor_ids)
        return Export(selection, tuple(measurements), self.timestamp_unit, patience, self._calls)

    def watch(
        self,
        sensor_ids: Iterable[int] = (),
        *,
        resume_token: str = "",
        patience: float = PATIENCE,
        on_resumed: OnWatchResumed | None = None,
    ) -> Watch:
        """Return readings as they are stored, of all sensors or of `sensor_ids`, as a Watch; iterating it begins.

        From now on, or after the event that `resume_token` came with: readings of up to 50 minutes ago are still told.
        The watch outlasts services that end, `on_resumed` hears of it; after `patience` seconds without any it raises.
        """
        return Watch(tuple(sensor_ids), resume_token, patience, on_resumed, self._calls)

    def _selection(self, start: Moment | None, end: Moment | None, sensor_ids: Iterable[int]) -> Selection:
        return Selection(self._ts(start), self._ts(end), tuple(sensor_ids))

    def _ts(self, moment: Moment | None) -> int | None:
        """Return a bound in the pipeline's unit, rounded up: no reading has a time between two `ts`."""
        if not isinstance(moment, datetime):
            return moment
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone; give it one, like datetime.UTC")
        microseconds = (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
        return -(-microseconds * PER_SECOND[self.timestamp_unit] // 1_000_000)


def _seconds(bucket: timedelta | int) -> int:
    width = bucket if isinstance(bucket, timedelta) else timedelta(seconds=bucket)
    seconds, rest = divmod(width, timedelta(seconds=1))
    if rest:
        raise ValueError(f"bucket: {bucket} is not in whole seconds")
    return seconds
