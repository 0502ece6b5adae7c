"""Pages of readings neither lose nor repeat a reading, and cost what they hold, not what is stored."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from sensorlog.measurements import names
from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query import microseconds
from sensorlog_query.aggregates import Aggregate
from sensorlog_query.chunks import chunks_of, steps
from sensorlog_query.latest import FEW, LatestReader, parameters
from sensorlog_query.microseconds import BEGINNING, END
from sensorlog_query.sql import Statements
from sensorlog_query.validation import Alignment, Selection
from support.pipelines import SEED_TS, Pipeline
from support.query import QueryService, Reading, as_reading, in_order, query_service, random_readings, store

pytestmark = pytest.mark.integration

TIED: list[Reading] = [(SEED_TS, 1, (float(i % 4), None if i % 3 else 1.0)) for i in range(23)]
READINGS = [*random_readings(2, count=300), *TIED]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """Return a pipeline that needs no topics."""
    return make_pipeline(create_topics=False)


@pytest.fixture
def query(start_service: Any, pipeline: Pipeline) -> Iterator[QueryService]:
    """Return the service over READINGS."""
    store(pipeline, READINGS)
    with query_service(start_service, pipeline) as service:
        yield service


def _by_tokens(query: QueryService, **fields: Any) -> Iterator[list[Reading]]:
    token = ""
    while True:
        reply = query.stub.ListSensorData(pb.ListSensorDataReq(page_token=token, **fields))
        yield [as_reading(message) for message in reply.results]
        token = reply.next_page_token
        if not token:
            return


@pytest.mark.parametrize("sensor_ids", [[], [1], [1, 7, -3]])
@pytest.mark.parametrize("order", [pb.ORDER_ASCENDING, pb.ORDER_DESCENDING])
@pytest.mark.parametrize("page_size", [1, 7, 100])
def test_tokens_lead_through_every_reading_once(
    query: QueryService, page_size: int, order: pb.Order.ValueType, sensor_ids: list[int]
) -> None:
    """Also through 23 readings of one sensor at one moment, most of which are equal in all columns."""
    pages = list(_by_tokens(query, page_size=page_size, order=order, sensor_ids=sensor_ids))
    expected = in_order(r for r in READINGS if r[1] in sensor_ids or not sensor_ids)
    assert [r for page in pages for r in page] == (expected[::-1] if order == pb.ORDER_DESCENDING else expected)
    assert all(len(page) == page_size for page in pages[:-1])
    assert pages[-1]


@pytest.mark.parametrize("sensor_ids", [[], [1, 7]])
@pytest.mark.parametrize("order", [pb.ORDER_ASCENDING, pb.ORDER_DESCENDING])
def test_numbered_pages_are_the_same_pages(
    query: QueryService, order: pb.Order.ValueType, sensor_ids: list[int]
) -> None:
    """And a page number can be followed by tokens from wherever it ends, within equal keys too."""
    fields: dict[str, Any] = {"page_size": 5, "order": order, "sensor_ids": sensor_ids}
    pages = list(_by_tokens(query, **fields))
    for number, page in enumerate(pages, start=1):
        reply = query.stub.ListSensorData(pb.ListSensorDataReq(page=number, **fields))
        assert [as_reading(message) for message in reply.results] == page
        if number < len(pages):
            following = query.stub.ListSensorData(pb.ListSensorDataReq(page_token=reply.next_page_token, **fields))
            assert [as_reading(message) for message in following.results] == pages[number]
        else:
            assert not reply.next_page_token
    beyond = query.stub.ListSensorData(pb.ListSensorDataReq(page=len(pages) + 1, **fields))
    assert beyond == pb.ListSensorDataReply()


def test_two_calls_over_unchanged_data_give_the_same_page(query: QueryService, pipeline: Pipeline) -> None:
    """Also when the rows have been moved on disk in between."""
    request = pb.ListSensorDataReq(page=3, page_size=4)
    before = query.stub.ListSensorData(request)
    assert query.stub.ListSensorData(request) == before
    pipeline.query("UPDATE sensor_data SET cpu = cpu WHERE sensor_id = 1")
    assert query.stub.ListSensorData(request) == before


def test_pages_by_token_stay_in_step_while_readings_arrive(query: QueryService, pipeline: Pipeline) -> None:
    """Readings before the place do not shift it; readings after it are found."""
    pages = _by_tokens(query, page_size=10)
    seen = [*next(pages), *next(pages)]
    earlier: list[Reading] = [(SEED_TS - 1_000 - i, 5, (1.0, 1.0)) for i in range(15)]
    later: list[Reading] = [(SEED_TS + 10 * 86_400 + i, 5, (1.0, 1.0)) for i in range(15)]
    store(pipeline, [*earlier, *later])
    seen += [reading for page in pages for reading in page]
    assert seen == in_order([*READINGS, *later])


def test_a_token_outlives_the_readings_it_points_at(query: QueryService, pipeline: Pipeline) -> None:
    """Retention may drop them: what follows is not passed over."""
    fields: dict[str, Any] = {"page_size": 5, "sensor_ids": [1]}
    ordered = in_order(r for r in READINGS if r[1] == 1)
    at = next(i for i, r in enumerate(ordered) if r in TIED)
    place = query.stub.ListSensorData(pb.ListSensorDataReq(page=1, page_size=at + 5, sensor_ids=[1])).next_page_token
    pipeline.query("DELETE FROM sensor_data WHERE sensor_id = 1 AND time = to_timestamp(%s)", [SEED_TS])
    reply = query.stub.ListSensorData(pb.ListSensorDataReq(page_token=place, **fields))
    remaining = [r for r in ordered if r[0] > SEED_TS]
    assert [as_reading(message) for message in reply.results] == remaining[:5]


def test_a_token_of_another_sensor_choice_is_refused(query: QueryService) -> None:
    """It would skip readings silently."""
    token = query.stub.ListSensorData(pb.ListSensorDataReq(page_size=5)).next_page_token
    with pytest.raises(Exception, match="page_token: of another request"):
        query.stub.ListSensorData(pb.ListSensorDataReq(page_token=token, sensor_ids=[1]))


# What the statements cost. The plans are asked for with the parameters that a first page has.

DAYS = 10


@pytest.fixture
def plans(pipeline: Pipeline) -> Iterator["Plans"]:
    """Return the plans of the service's statements over DAYS chunks of 4,000 readings each."""
    pipeline.query(
        "INSERT INTO sensor_data SELECT to_timestamp(%s) + day * interval '1 day' + n * interval '2 s', n %% 40, n, n"
        f" FROM generate_series(0, {DAYS - 1}) day, generate_series(1, 4000) n",
        [SEED_TS // 86_400 * 86_400],
    )
    pipeline.query("INSERT INTO sensors (id, updated_at) SELECT n, '-infinity' FROM generate_series(0, 39) n")
    pipeline.query("ANALYZE sensor_data")
    with pipeline.database.connect() as connection:
        microseconds.register(connection)
        yield Plans(connection, Statements(pipeline.schema, names(pipeline.config.measurements)))


class Plans:
    """What PostgreSQL would do, and did."""

    def __init__(self, connection: psycopg.Connection[Any], statements: Statements) -> None:
        self.cursor = connection.cursor(binary=True)
        self.statements = statements

    def executed(self, statement: psycopg.sql.Composed, **parameters: Any) -> list[dict[str, Any]]:
        """Return the nodes of the plan that were executed, outermost first."""
        explain = psycopg.sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + statement
        row = self.cursor.execute(explain, parameters).fetchone()
        assert row is not None
        return list(_nodes(row[0][0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node["Actual Loops"]:
        yield node
        for child in node.get("Plans", []):
            yield from _nodes(child)


def _scans(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the scans of chunks; ChunkAppend, a Custom Scan, only passes their rows on."""
    return [n for n in nodes if "Relation Name" in n and n["Node Type"] != "Custom Scan"]


def _relations(nodes: list[dict[str, Any]]) -> set[str]:
    return {scan["Relation Name"] for scan in _scans(nodes)}


def _rows_read(nodes: list[dict[str, Any]]) -> float:
    return sum(float(scan["Actual Rows"] * scan["Actual Loops"]) for scan in _scans(nodes))


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_of_all_sensors_sorts_one_chunk_and_not_the_table(plans: Plans, *, descending: bool) -> None:
    """The first step of a page reads one of ten chunks."""
    everything = Selection(BEGINNING, END, ())
    chunks = chunks_of(plans.cursor, plans.statements, everything)
    assert len(chunks) == DAYS
    first = next(steps(chunks, descending=descending))
    statement = plans.statements.page(of_sensors=False, descending=descending, after_key=False)
    nodes = plans.executed(statement, start=first.start, end=first.end, limit=101, offset=0)
    assert len(_relations(nodes)) == 1
    assert _rows_read(nodes) <= 4_000


@pytest.mark.parametrize("descending", [False, True])
def test_the_last_readings_of_a_sensor_come_from_the_index(plans: Plans, *, descending: bool) -> None:
    """No table is scanned, no more rows are read than the page needs, and chunks that are not needed stay closed."""
    statement = plans.statements.page(of_sensors=True, descending=descending, after_key=False)
    nodes = plans.executed(statement, sensor_ids=[7], start=BEGINNING, end=END, limit=50, offset=0)
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    assert len(_relations(nodes)) == 1
    assert _rows_read(nodes) <= 51


def test_latest_readings_come_from_the_index(plans: Plans) -> None:
    """Two rows a sensor from the newest chunk, however long the history is."""
    nodes = plans.executed(plans.statements.latest(), sensor_ids=[1, 2, 3], **_newest(plans))
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    assert _rows_read(nodes) <= 6


def test_the_latest_readings_of_many_sensors_come_from_one_scan_of_the_index(plans: Plans) -> None:
    """It reaches a few readings back, within the newest chunk."""
    newest = Selection(**_newest(plans), sensor_ids=tuple(range(40)))
    reach = LatestReader(plans.cursor, plans.statements, lambda: None).reach(newest)
    nodes = plans.executed(plans.statements.recent(), **parameters(replace(newest, start=reach)))
    [scan] = _scans(nodes)
    assert scan["Node Type"] != "Seq Scan"
    assert 40 <= _rows_read(nodes) <= FEW * 40


def _newest(plans: Plans) -> dict[str, Any]:
    chunks = chunks_of(plans.cursor, plans.statements, Selection(BEGINNING, END, ()))
    step = next(steps(chunks, descending=True))
    return {"start": step.start, "end": step.end}


def test_a_range_of_time_opens_only_its_chunks(plans: Plans) -> None:
    """The others are left out before anything is read."""
    start = microseconds.Moment((SEED_TS // 86_400 + 4) * 86_400 * 1_000_000)
    statement = plans.statements.buckets(Alignment.UTC, list(Aggregate), of_sensors=False, per_sensor=False)
    end = microseconds.Moment(start + 86_400 * 1_000_000)
    nodes = plans.executed(statement, width=timedelta(minutes=30), start=start, end=end, limit=100)
    assert len(_relations(nodes)) == 1
