"""What can be told of a bucket's readings beside their number."""

from collections.abc import Iterable
from enum import StrEnum

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.errors import InvalidArgumentError


class Aggregate(StrEnum):
    """One value per measurement and bucket; rows and replies have them in this order."""

    AVERAGE = "average"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    FIRST = "first"
    LAST = "last"


BY_NUMBER = {
    pb.AGGREGATE_MINIMUM: Aggregate.MINIMUM,
    pb.AGGREGATE_MAXIMUM: Aggregate.MAXIMUM,
    pb.AGGREGATE_FIRST: Aggregate.FIRST,
    pb.AGGREGATE_LAST: Aggregate.LAST,
}
"""The contract's numbers. The average is always told."""


def aggregates_of(numbers: Iterable[pb.Aggregate.ValueType]) -> frozenset[Aggregate]:
    """Return the aggregates asked for by number; InvalidArgumentError where one is none."""
    asked = list(numbers)
    if unknown := [number for number in asked if number not in BY_NUMBER]:
        accepted = ", ".join(pb.Aggregate.Name(number) for number in BY_NUMBER)
        raise InvalidArgumentError("aggregates", f"{unknown[0]} is not accepted; must be among {accepted}")
    return frozenset(BY_NUMBER[number] for number in asked)
