"""What requests of the query service are accepted, and how the others are refused."""

from datetime import timedelta
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query import page_token
from sensorlog_query.errors import InvalidArgumentError
from sensorlog_query.microseconds import BEGINNING, END, Moment
from sensorlog_query.page_token import Position
from sensorlog_query.validation import Page, Selection, Validator, page_of

VALIDATOR = Validator("slp_test", "s", ("temperature", "cpu"))
NO_TOKEN = "nonsense"  # noqa: S105 -- a page token is no secret
EVERYTHING = Selection(BEGINNING, END, ())


def test_defaults_are_the_contracts() -> None:
    """What an original client does not send is page 1 of 100, everything, in buckets of half an hour."""
    readings = VALIDATOR.readings(pb.ListSensorDataReq())
    assert page_of(pb.ListSensorReq()) == Page(offset=0, size=100)
    assert (readings.page, readings.selection) == (Page(offset=0, size=100), EVERYTHING)
    assert not readings.descending
    assert readings.position is None
    buckets = VALIDATOR.buckets(pb.GetSensorAvgDataReq())
    assert (buckets.selection, buckets.width, buckets.per_sensor) == (EVERYTHING, timedelta(seconds=1800), False)
    assert VALIDATOR.latest(pb.GetLatestSensorDataReq()) == ()
    assert VALIDATOR.export(pb.ExportSensorDataReq()).measurements == ("temperature", "cpu")


def test_pages_count_from_1() -> None:
    """Page n begins after n - 1 pages."""
    assert page_of(pb.ListSensorReq(page=3, page_size=20)) == Page(offset=40, size=20)


def test_the_last_page_that_fits_the_field_is_accepted() -> None:
    """A page far behind the end is empty, not an error."""
    assert page_of(pb.ListSensorReq(page=2**31 - 1, page_size=10_000)).offset == (2**31 - 2) * 10_000


@pytest.mark.parametrize(
    ("request_", "field", "accepted"),
    [
        (pb.ListSensorDataReq(page=0), "page", "between 1 and 2147483647"),
        (pb.ListSensorDataReq(page=-1), "page", "between 1 and"),
        (pb.ListSensorDataReq(page_size=0), "page_size", "between 1 and 10000"),
        (pb.ListSensorDataReq(page_size=10_001), "page_size", "between 1 and 10000"),
        (pb.ListSensorDataReq(start_ts=10, end_ts=10), "end_ts", "after start_ts"),
        (pb.ListSensorDataReq(start_ts=11, end_ts=10), "end_ts", "after start_ts"),
        (pb.ListSensorDataReq(start_ts=2**63 - 1), "start_ts", "between -62135596800 and 253402300800"),
        (pb.ListSensorDataReq(end_ts=-(2**63)), "end_ts", "between -62135596800 and 253402300800"),
        (pb.ListSensorDataReq(sensor_ids=range(1001)), "sensor_ids", "at most 1000"),
        (pb.ListSensorDataReq(page_token=NO_TOKEN), "page_token", "next_page_token"),
        (pb.ListSensorDataReq(page_token=NO_TOKEN, page=2), "page_token", "without it"),
        (pb.GetSensorAvgDataReq(bucket_seconds=0), "bucket_seconds", "between 1 and 31622400"),
        (pb.GetSensorAvgDataReq(bucket_seconds=31_622_401), "bucket_seconds", "between 1 and 31622400"),
        (pb.GetSensorAvgAndLatestDataReq(start_ts=5, end_ts=4), "end_ts", "after start_ts"),
        (pb.GetLatestSensorDataReq(sensor_ids=range(1001)), "sensor_ids", "at most 1000"),
        (pb.ExportSensorDataReq(measurements=["cpu", "rpm"]), "measurements", "temperature, cpu"),
        (pb.ExportSensorDataReq(measurements=["cpu", "cpu"]), "measurements", "once each"),
    ],
    ids=str,
)
def test_a_refusal_names_the_field_and_what_is_accepted(request_: Any, field: str, accepted: str) -> None:
    """Both for people, in the message, and for programs, as google.rpc.BadRequest."""
    with pytest.raises(InvalidArgumentError) as caught:
        _validate(request_)
    assert str(caught.value).startswith(f"{field}: ")
    assert accepted in str(caught.value)
    detail = BadRequest()
    caught.value.status().details[0].Unpack(detail)
    assert [violation.field for violation in detail.field_violations] == [field]


def _validate(request: Any) -> object:
    match request:
        case pb.ListSensorDataReq():
            return VALIDATOR.readings(request)
        case pb.GetLatestSensorDataReq():
            return VALIDATOR.latest(request)
        case pb.ExportSensorDataReq():
            return VALIDATOR.export(request)
        case _:
            return VALIDATOR.buckets(request)


def test_an_unknown_order_is_refused() -> None:
    """Proto3 enums are open: any number arrives."""
    request = pb.ListSensorDataReq.FromString(b"\x38\x07")  # field 7, value 7
    with pytest.raises(InvalidArgumentError, match="order: 7"):
        VALIDATOR.readings(request)


@pytest.mark.parametrize(
    ("unit", "ts", "microseconds"),
    [
        ("s", 1_646_409_307, 1_646_409_307_000_000),
        ("ms", -1_500, -1_500_000),
        ("us", 1_646_409_307_000_001, 1_646_409_307_000_001),
        # The database keeps microseconds: what is at or after 1001 ns is at or after 2 us.
        ("ns", 1_001, 2),
        ("ns", 1_000, 1),
        ("ns", -1_001, -1),
    ],
)
def test_times_are_in_the_pipelines_unit(unit: Any, ts: int, microseconds: int) -> None:
    """A bound between two microseconds is rounded up, for the start and for the end."""
    validator = Validator("slp_test", unit, ("cpu",))
    assert validator.export(pb.ExportSensorDataReq(start_ts=ts)).selection.start == microseconds
    assert validator.export(pb.ExportSensorDataReq(end_ts=ts)).selection.end == microseconds


def test_sensor_ids_are_a_set() -> None:
    """Named twice or in another order is the same request; any int64 is an id."""
    request = pb.ListSensorDataReq(sensor_ids=[5, -(2**63), 5, 2**63 - 1])
    assert VALIDATOR.readings(request).selection.sensor_ids == (-(2**63), 5, 2**63 - 1)


def test_a_token_is_accepted_only_with_its_own_filters() -> None:
    """Changing the order or a filter between pages would skip readings silently."""
    issued = VALIDATOR.readings(pb.ListSensorDataReq(sensor_ids=[1, 2]))
    token = page_token.encode(Position(Moment(7), 1, 2), issued.fingerprint)
    same = VALIDATOR.readings(pb.ListSensorDataReq(sensor_ids=[2, 1], page_token=token, page_size=7))
    assert same.position == Position(Moment(7), 1, 2)
    others = [
        pb.ListSensorDataReq(sensor_ids=[1], page_token=token),
        pb.ListSensorDataReq(sensor_ids=[1, 2], page_token=token, order=pb.ORDER_DESCENDING),
        pb.ListSensorDataReq(sensor_ids=[1, 2], page_token=token, start_ts=0),
    ]
    for other in others:
        with pytest.raises(InvalidArgumentError, match="page_token: of another request"):
            VALIDATOR.readings(other)
    with pytest.raises(InvalidArgumentError, match="of another request"):
        Validator("slp_other", "s", ("cpu",)).readings(pb.ListSensorDataReq(sensor_ids=[1, 2], page_token=token))
