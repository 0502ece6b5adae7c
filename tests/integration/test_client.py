"""The Python client against a real service and a real database, also while the service goes away."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import numpy as np
import psutil
import pyarrow as pa
import pytest

from sensorlog.client import (
    Aggregate,
    Block,
    CallError,
    Client,
    DeadlineError,
    ExportInterruptedError,
    InvalidRequestError,
    LimitError,
    Retries,
    UnavailableError,
)
from sensorlog.client.rows import Reading as ClientReading
from support.containers import free_port
from support.pipelines import SEED_TS, Pipeline
from support.processes import ServiceProcess
from support.query import (
    EPOCH,
    QueryService,
    Reading,
    average,
    bucketed,
    in_order,
    latest,
    query_service,
    random_readings,
    readings_locked,
    store,
)
from support.waiting import wait_until

pytestmark = pytest.mark.integration

READINGS = random_readings(11)
MANY = 2_000_000
MEGABYTE = 1024 * 1024
RANGES: list[dict[str, Any]] = [
    {},
    {"sensor_ids": [7, -3, 404]},
    {"start": SEED_TS + 86_400, "end": SEED_TS + 2 * 86_400},
    {"start": EPOCH + timedelta(seconds=SEED_TS + 100_000), "sensor_ids": [1]},
]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service."""
    with query_service(start_service, pipeline) as service:
        yield service


@pytest.fixture
def client(query: QueryService) -> Iterator[Client]:
    """Return a client of the service."""
    with Client(query.target) as client:
        yield client


@pytest.fixture
def many(pipeline: Pipeline) -> None:
    """Store MANY readings, a hundred a moment."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s + n / 100), n %% 100, n, NULLIF(n %% 7, 0)"
        " FROM generate_series(0, %s) n",
        [SEED_TS, MANY - 1],
    )


def _plain(readings: Iterable[ClientReading]) -> list[Reading]:
    """Return the client's readings in the form of the test's."""
    return [(r.ts, r.sensor_id, (r.values.get("temperature"), r.values.get("cpu"))) for r in readings]


def _rows(blocks: Iterable[Block]) -> list[Reading]:
    """Return exported readings in the form of the test's."""
    rows: list[Reading] = []
    for block in blocks:
        values = [[None if math.isnan(v) else v for v in column.tolist()] for column in block.columns.values()]
        rows += list(zip(block.ts.tolist(), block.sensor_id.tolist(), zip(*values, strict=True), strict=True))
    return rows


def _expected(options: dict[str, Any]) -> list[Reading]:
    """Return what lies in a range, found in the input."""
    start, wanted = options.get("start", 0), options.get("sensor_ids")
    low = (start - EPOCH).total_seconds() if isinstance(start, datetime) else start
    high = options.get("end", 2**40)
    return in_order(r for r in READINGS if low <= r[0] < high and (not wanted or r[1] in wanted))


@pytest.mark.parametrize("options", RANGES, ids=str)
def test_pages_joined_equal_the_table(client: Client, pipeline: Pipeline, options: dict[str, Any]) -> None:
    """Every reading once, in order, over many small pages; backwards too."""
    store(pipeline, READINGS)
    expected = _expected(options)
    assert in_order(_plain(client.readings(page_size=7, **options))) == expected
    backwards = _plain(client.readings(page_size=100, newest_first=True, **options))
    assert [r[:2] for r in backwards] == [r[:2] for r in reversed(expected)]
    assert len(list(client.readings(page_size=7, limit=20, **options))) == min(20, len(expected))


@pytest.mark.parametrize("options", RANGES, ids=str)
def test_an_export_equals_the_table(client: Client, pipeline: Pipeline, options: dict[str, Any]) -> None:
    """As blocks, as numpy, as Arrow and as pandas."""
    store(pipeline, READINGS)
    expected = _expected(options)
    export = client.export(**options)
    assert in_order(_rows(export)) == expected
    assert in_order(_rows([export.to_numpy()])) == expected
    assert in_order(_arrow_rows(export.to_arrow())) == expected
    frame = export.to_pandas()
    assert str(frame["time"].dtype) == "datetime64[s, UTC]"
    assert [(int(t.timestamp()), s) for t, s in zip(frame["time"], frame["sensor_id"], strict=True)] == [
        r[:2] for r in expected
    ]
    assert int(frame["cpu"].isna().sum()) == sum(r[2][1] is None for r in expected)


def _arrow_rows(table: pa.Table) -> list[Reading]:
    assert table.schema.field("time").type == pa.timestamp("s", "UTC")
    return [
        (int(row["time"].timestamp()), row["sensor_id"], (row["temperature"], row["cpu"])) for row in table.to_pylist()
    ]


def test_columns_come_in_the_order_asked_for(client: Client, pipeline: Pipeline) -> None:
    """Only those; an export of nothing has them too."""
    store(pipeline, [(SEED_TS, 1, (30.0, 20.0))])
    assert list(client.export(measurements=["cpu", "temperature"]).to_numpy().columns) == ["cpu", "temperature"]
    nothing = client.export(measurements=["cpu"], sensor_ids=[404])
    assert nothing.to_arrow().schema.names == ["time", "sensor_id", "cpu"]
    assert list(nothing.to_pandas().columns) == ["time", "sensor_id", "cpu"]


def test_bounds_between_two_ts_are_rounded_up(client: Client, pipeline: Pipeline) -> None:
    """A reading before the bound is before it, whatever the unit; time zones count."""
    store(pipeline, [(SEED_TS, 1, (1.0, 1.0)), (SEED_TS + 1, 1, (2.0, 2.0))])
    between = (EPOCH + timedelta(seconds=SEED_TS, milliseconds=1)).astimezone(timezone(timedelta(hours=5)))
    assert [r.ts for r in client.readings(start=between)] == [SEED_TS + 1]
    assert [r.ts for r in client.readings(end=between)] == [SEED_TS]
    with pytest.raises(ValueError, match="no time zone"):
        next(client.readings(start=datetime(2026, 1, 1)))  # noqa: DTZ001 -- which is refused


def test_latest(client: Client, pipeline: Pipeline) -> None:
    """One reading a sensor."""
    store(pipeline, READINGS)
    expected = {r[1]: r[0] for r in in_order(READINGS)}
    assert {r.sensor_id: r.ts for r in client.latest()} == expected
    assert [r.sensor_id for r in client.latest([7, 404])] == [7]


def test_more_sensors_than_a_page_holds(client: Client, pipeline: Pipeline) -> None:
    """Each once, by id."""
    pipeline.query(
        "INSERT INTO sensors (id, type, location, updated_at)"
        " SELECT n, 'a', 'hall', now() FROM generate_series(1, 10001) n"
    )
    sensors = list(client.list_sensors())
    assert [sensor.id for sensor in sensors] == list(range(1, 10_002))
    assert (sensors[0].type, sensors[0].location) == ("a", "hall")


@pytest.mark.parametrize("per_sensor", [False, True])
def test_averages_equal_those_computed_here(client: Client, pipeline: Pipeline, *, per_sensor: bool) -> None:
    """Averages, counts and latest values of each bucket."""
    store(pipeline, READINGS)
    expected = bucketed(READINGS, 3600, per_sensor=per_sensor)
    buckets = client.averages(bucket=timedelta(hours=1), per_sensor=per_sensor, with_latest=True)
    assert {(b.start, b.sensor_id): b.count for b in buckets} == {key: len(rows) for key, rows in expected.items()}
    for bucket in buckets:
        rows = expected[bucket.start, bucket.sensor_id]
        for index, name in enumerate(("temperature", "cpu")):
            mean = average(rows, index)
            assert bucket.averages.get(name) == (None if mean is None else pytest.approx(mean, rel=1e-12))
            assert bucket.lasts.get(name) == latest(rows, index)
    plain = client.averages(bucket=3600, per_sensor=per_sensor)
    assert [b.averages for b in plain] == [b.averages for b in buckets]


def test_aggregates_equal_those_computed_here(client: Client, pipeline: Pipeline) -> None:
    """Only those asked for; the others are empty."""
    store(pipeline, READINGS)
    expected = bucketed(READINGS, 86_400)
    buckets = client.averages(bucket=86_400, aggregates=["min", Aggregate.MAX, "last"])
    assert len(buckets) == len(expected)
    for bucket in buckets:
        rows = expected[bucket.start, None]
        for index, name in enumerate(("temperature", "cpu")):
            values = [value for r in rows if (value := r[2][index]) is not None]
            assert (bucket.minimums[name], bucket.maximums[name]) == (min(values), max(values))
            assert bucket.lasts[name] == latest(rows, index)
        assert bucket.firsts == {}


def test_gaps_are_filled_and_days_begin_where_people_live(client: Client, pipeline: Pipeline) -> None:
    """With a count of 0; the day on which the clocks go forward has 23 hours."""
    zone = ZoneInfo("Europe/Berlin")
    day = [datetime(2026, 3, n, tzinfo=zone) for n in (28, 29, 30, 31)]
    store(pipeline, [(int(day[1].timestamp()) + 5, 1, (1.0, None))])
    buckets = client.averages(bucket=86_400, start=day[0], end=day[3], fill_gaps=True, time_zone="Europe/Berlin")
    assert [(b.start, b.count) for b in buckets] == [
        (int(moment.timestamp()), count) for moment, count in zip(day[:3], (0, 1, 0), strict=True)
    ]
    assert buckets[2].start - buckets[1].start == 23 * 3600
    assert (buckets[0].averages, buckets[1].averages) == ({}, {"temperature": 1.0})


def test_a_bucket_of_half_a_second_is_refused(client: Client) -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match="whole seconds"):
        client.averages(bucket=timedelta(milliseconds=500))


def test_a_refusal_names_the_field(client: Client) -> None:
    """Of calls and of exports."""
    with pytest.raises(InvalidRequestError) as caught:
        client.averages(bucket=0)
    assert caught.value.field == "bucket_seconds"
    with pytest.raises(InvalidRequestError, match="'humidity' is not declared") as caught:
        client.export(measurements=["humidity"]).to_numpy()
    assert caught.value.field == "measurements"


def test_the_timeout_ends_a_call(query: QueryService, pipeline: Pipeline) -> None:
    """In time, where the database does not answer."""
    store(pipeline, READINGS[:3])
    with Client(query.target, timeout=1) as client, readings_locked(pipeline):
        for call in (client.latest, lambda: next(client.readings()), client.export(timeout=1).to_numpy):
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                call()
            assert time.monotonic() - began < 5


def test_a_limit_is_not_retried(start_service: Any, pipeline: Pipeline, many: None) -> None:  # noqa: ARG001
    """It is told at once."""
    settings: dict[str, Any] = {"SENSORLOG_MAX_EXPORTS": "1"}
    with query_service(start_service, pipeline, **settings) as query, Client(query.target) as client:
        first = iter(client.export())
        next(first)
        refused = {"method": "ExportSensorData", "code": "RESOURCE_EXHAUSTED"}
        with pytest.raises(LimitError, match="1 exports are running"):
            client.export().to_numpy()
        assert query.process.metric("sensorlog_query_requests_total", refused) == 1
        first.close()  # type: ignore[attr-defined]  # it is a generator, and this cancels the call
        wait_until(lambda: client.export(end=SEED_TS + 1).to_numpy(), deadline=10, what="the place to be free again")


class Restartable:
    """A query service that goes away and comes back at the same address."""

    def __init__(self, start: Callable[..., ServiceProcess], pipeline: Pipeline) -> None:
        self._start = start
        self._pipeline = pipeline
        self.port = free_port()
        self.process = self.start().wait_ready()

    @property
    def target(self) -> str:
        """Where it is reached."""
        return f"localhost:{self.port}"

    def start(self) -> ServiceProcess:
        """Start it; not waited for."""
        self.process = self._start("sensorlog_query", self._pipeline, SENSORLOG_GRPC_PORT=str(self.port))
        return self.process


@pytest.fixture
def restartable(start_service: Any, pipeline: Pipeline) -> Restartable:
    """Return a running service."""
    return Restartable(start_service, pipeline)


def test_paging_goes_on_over_a_restart(restartable: Restartable, pipeline: Pipeline) -> None:
    """The call made while nobody listens is retried until somebody does; not one reading is lost or doubled."""
    store(pipeline, READINGS)
    with Client(restartable.target) as client:
        readings = client.readings(page_size=50)
        first = [next(readings) for _ in range(50)]
        restartable.process.kill()
        with Client(restartable.target, retries=Retries(attempts=1)) as hasty, pytest.raises(UnavailableError):
            hasty.latest()
        restartable.start()
        assert in_order(_plain([*first, *readings])) == in_order(READINGS)


def test_waiting_for_ready_outlasts_any_outage_within_the_timeout(restartable: Restartable, pipeline: Pipeline) -> None:
    """Without a single retry."""
    store(pipeline, READINGS[:1])
    restartable.process.kill()
    once = Retries(attempts=1)
    with Client(restartable.target, wait_for_ready=True, timeout=60, retries=once) as client:
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(client.export(timeout=60).to_numpy()))
        asking.start()
        restartable.start()
        asking.join(60)
    assert [len(answer) for answer in answers] == [1]


@pytest.mark.usefixtures("many")
def test_an_export_goes_on_over_a_restart(restartable: Restartable) -> None:
    """After the last whole moment: every reading once."""
    resumed: list[tuple[int, CallError]] = []
    counts = np.zeros(MANY, np.int64)
    with Client(restartable.target) as client:
        export = client.export(measurements=["temperature"], on_resumed=lambda ts, e: resumed.append((ts, e)))
        for number, block in enumerate(export):
            counts[block.columns["temperature"].astype(np.int64)] += 1
            if number == 1:
                restartable.process.kill()
                restartable.start()
    assert (counts == 1).all()
    assert resumed
    assert isinstance(resumed[0][1], UnavailableError)


@pytest.mark.usefixtures("many")
def test_a_broken_export_says_where_to_go_on(restartable: Restartable) -> None:
    """What came before is whole up to there, and the rest is an export from there."""
    rows: list[tuple[int, int]] = []

    def read(client: Client) -> None:
        for block in client.export(resumptions=0):
            rows.extend(zip(block.ts.tolist(), block.sensor_id.tolist(), strict=True))
            restartable.process.kill()

    with Client(restartable.target) as client:
        with pytest.raises(ExportInterruptedError, match=r"complete up to ts \d+, sensor 99: UNAVAILABLE") as caught:
            read(client)
        error = caught.value
        assert (error.last_ts, error.last_sensor_id) == rows[-1]
        assert (error.rows, error.code) == (len(rows), grpc.StatusCode.UNAVAILABLE)
        assert isinstance(error.__cause__, UnavailableError)
        assert len(rows) == (error.resume_from - SEED_TS) * 100  # a hundred a moment
        restartable.start().wait_ready()
        rest = client.export(start=error.resume_from).to_numpy()
    assert len(rows) + len(rest) == MANY
    assert rest.ts[0] == error.resume_from


@pytest.mark.usefixtures("many")
def test_an_export_is_never_in_memory_as_a_whole(client: Client) -> None:
    """It is 64 MB, of which a few are here at a time."""
    process = psutil.Process()
    client.export(end=SEED_TS + 600).to_numpy()  # warms up
    before, peak, count = process.memory_info().rss, 0, 0
    for block in client.export():
        count += len(block)
        peak = max(peak, process.memory_info().rss)
    assert count == MANY
    assert peak - before < 24 * MEGABYTE


def test_a_reading_of_now_is_found_with_a_bound_of_now(client: Client, pipeline: Pipeline) -> None:
    """Aware datetimes are bounds as integers are."""
    now = int(datetime.now(UTC).timestamp())
    store(pipeline, [(now, 1, (1.0, None))])
    start = datetime.fromtimestamp(now, UTC)
    assert _plain(client.readings(start=start, end=start + timedelta(seconds=1))) == [(now, 1, (1.0, None))]
