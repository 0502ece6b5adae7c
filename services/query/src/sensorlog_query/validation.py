"""Requests as typed queries. What does not fit is refused with the field's name and the accepted range."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import PER_SECOND, TimestampUnit
from sensorlog_query import page_token
from sensorlog_query.aggregates import Aggregate, aggregates_of
from sensorlog_query.errors import InvalidArgumentError
from sensorlog_query.microseconds import BEGINNING, END, Moment
from sensorlog_query.page_token import Position

ORDERS = frozenset(pb.Order.values())
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 10_000
MAX_SENSOR_IDS = 1_000
DEFAULT_BUCKET_SECONDS = 1_800
HOUR, DAY = 3_600, 86_400
MAX_BUCKET_SECONDS = 366 * DAY
MAX_BUCKETS = 100_000
"""Buckets of a reply."""
YEAR_1 = -62_135_596_800
YEAR_10000 = 253_402_300_800
"""In seconds since 1970: what a `ts` of a request may lie between."""


UTC = "UTC"

BucketsReq = pb.GetSensorAvgDataReq | pb.GetSensorAvgAndLatestDataReq
RangeReq = pb.ListSensorDataReq | BucketsReq | pb.ExportSensorDataReq


@dataclass(frozen=True, slots=True)
class Selection:
    """Readings with start <= time < end, of `sensor_ids` (sorted, each once) or of all sensors where empty."""

    start: Moment
    end: Moment
    sensor_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """`size` rows after the first `offset`."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ReadingsQuery:
    """A page of readings. `position` is where the page before ended; then the page's offset is 0."""

    selection: Selection
    page: Page
    descending: bool
    position: Position | None
    fingerprint: bytes


class Alignment(Enum):
    """From where buckets are counted; the differences lie in nights when clocks change."""

    UTC = "UTC's midnights"
    CLOCK = "a zone's hours; all of one length, and an hour that a clock shows twice is two"
    CALENDAR = "a zone's midnights; the one with the change is longer or shorter"


@dataclass(frozen=True, slots=True)
class BucketsQuery:
    """`aggregates` per bucket of `width`, in the order of Aggregate. `zone` is a name that nobody has checked yet."""

    selection: Selection
    width: timedelta
    per_sensor: bool
    aggregates: tuple[Aggregate, ...]
    fill_gaps: bool
    zone: str

    @property
    def alignment(self) -> Alignment:
        """What the buckets are aligned to."""
        if self.zone == UTC:
            return Alignment.UTC
        return Alignment.CLOCK if self.width <= timedelta(seconds=HOUR) else Alignment.CALENDAR


@dataclass(frozen=True, slots=True)
class ExportQuery:
    """Columns of `measurements`, in this order."""

    selection: Selection
    measurements: tuple[str, ...]


def _in_range(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgumentError(field, f"{value} is not accepted; must be between {low} and {high}")
    return value


def page_of(request: pb.ListSensorReq | pb.ListSensorDataReq) -> Page:
    """Return the page asked for, with the contract's defaults for what was not sent."""
    number, size = 1, DEFAULT_PAGE_SIZE
    if request.HasField("page"):
        number = _in_range("page", request.page, 1, 2**31 - 1)
    if request.HasField("page_size"):
        size = _in_range("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    return Page(offset=(number - 1) * size, size=size)


@dataclass(frozen=True, slots=True)
class Validator:
    """Reads requests in the terms of one pipeline."""

    pipeline: str
    unit: TimestampUnit
    measurements: tuple[str, ...]

    def readings(self, request: pb.ListSensorDataReq) -> ReadingsQuery:
        """Return the query of ListSensorData."""
        if request.order not in ORDERS:
            raise InvalidArgumentError("order", f"{request.order} is not accepted; must be one of {pb.Order.keys()}")
        selection, page = self._selection(request), page_of(request)
        descending = request.order == pb.ORDER_DESCENDING
        fingerprint = page_token.fingerprint(self.pipeline, self.unit, selection, descending)
        return ReadingsQuery(selection, page, descending, _position(request, fingerprint), fingerprint)

    def buckets(self, request: BucketsReq) -> BucketsQuery:
        """Return the query of GetSensorAvgData and GetSensorAvgAndLatestData."""
        seconds = DEFAULT_BUCKET_SECONDS
        if request.HasField("bucket_seconds"):
            seconds = _in_range("bucket_seconds", request.bucket_seconds, 1, MAX_BUCKET_SECONDS)
        zone = request.time_zone or UTC
        if zone != UTC:
            _check_width_of_zone(seconds)
        wanted = {Aggregate.AVERAGE, *aggregates_of(request.aggregates)}
        if isinstance(request, pb.GetSensorAvgAndLatestDataReq):
            wanted.add(Aggregate.LAST)
        query = BucketsQuery(
            selection=self._selection(request),
            width=timedelta(seconds=seconds),
            per_sensor=request.per_sensor,
            aggregates=tuple(aggregate for aggregate in Aggregate if aggregate in wanted),
            fill_gaps=request.fill_gaps,
            zone=zone,
        )
        if query.fill_gaps:
            _check_gaps(request, query)
        return query

    def latest(self, request: pb.GetLatestSensorDataReq) -> tuple[int, ...]:
        """Return the sensors asked for, empty for all."""
        return _sensor_ids(request.sensor_ids)

    def watched(self, request: pb.WatchSensorDataReq) -> tuple[int, ...]:
        """Return the sensors to watch, empty for all."""
        return _sensor_ids(request.sensor_ids)

    def export(self, request: pb.ExportSensorDataReq) -> ExportQuery:
        """Return the query of ExportSensorData."""
        wanted = tuple(request.measurements)
        if unknown := [name for name in wanted if name not in self.measurements]:
            accepted = ", ".join(self.measurements)
            raise InvalidArgumentError("measurements", f"{unknown[0]!r} is not declared; must be among {accepted}")
        if len(set(wanted)) < len(wanted):
            raise InvalidArgumentError("measurements", "a name is there twice; must be named once each")
        return ExportQuery(self._selection(request), wanted or self.measurements)

    def _selection(self, request: RangeReq) -> Selection:
        start = self._moment("start_ts", request.start_ts) if request.HasField("start_ts") else BEGINNING
        end = self._moment("end_ts", request.end_ts) if request.HasField("end_ts") else END
        if end <= start:
            raise InvalidArgumentError("end_ts", f"{request.end_ts} is not accepted; must be after start_ts")
        return Selection(start, end, _sensor_ids(request.sensor_ids))

    def _moment(self, field: str, ts: int) -> Moment:
        per_second = PER_SECOND[self.unit]
        _in_range(field, ts, YEAR_1 * per_second, YEAR_10000 * per_second)
        # Rounded up: a reading stored at microsecond m answers to `ts <= m` and not to the nanoseconds before it.
        return Moment(-(-ts * PER_SECOND["us"] // per_second))


def _check_width_of_zone(seconds: int) -> None:
    """Refuse widths whose buckets could begin within the hour that clocks leave out in spring."""
    is_whole_hours = seconds % HOUR == 0
    if not (HOUR % seconds == 0 or (is_whole_hours and DAY % seconds == 0) or seconds % DAY == 0):
        raise InvalidArgumentError(
            "bucket_seconds",
            f"{seconds} is not accepted with time_zone; must divide an hour, be hours that divide a day, or be days",
        )


def _check_gaps(request: BucketsReq, query: BucketsQuery) -> None:
    """Refuse to fill what has no end, or what would have too many buckets."""
    for field in ("start_ts", "end_ts"):
        if not request.HasField(field):
            raise InvalidArgumentError(field, "missing; must be set with fill_gaps, which fills a whole range")
    sensors = query.selection.sensor_ids
    if query.per_sensor and not sensors:
        raise InvalidArgumentError("sensor_ids", "missing; must name the sensors with fill_gaps and per_sensor")
    microseconds = query.selection.end - query.selection.start
    per_series = -(-microseconds // (query.width // timedelta(microseconds=1))) + 1
    buckets = per_series * (len(sensors) if query.per_sensor else 1)
    if buckets > MAX_BUCKETS:
        raise InvalidArgumentError(
            "fill_gaps",
            f"up to {buckets} buckets; must be at most {MAX_BUCKETS}: narrow the range or widen bucket_seconds",
        )


def _sensor_ids(sensor_ids: Sequence[int]) -> tuple[int, ...]:
    if len(sensor_ids) > MAX_SENSOR_IDS:
        raise InvalidArgumentError("sensor_ids", f"{len(sensor_ids)} ids; must be at most {MAX_SENSOR_IDS}")
    return tuple(sorted(set(sensor_ids)))


def _position(request: pb.ListSensorDataReq, fingerprint: bytes) -> Position | None:
    if not request.page_token:
        return None
    if request.HasField("page"):
        raise InvalidArgumentError("page_token", "not accepted together with page; must be sent without it")
    return page_token.decode(request.page_token, fingerprint)
