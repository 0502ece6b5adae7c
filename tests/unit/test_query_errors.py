"""Foreign errors become the contract's status codes, and none escapes."""

from collections.abc import Iterator

import grpc
import psycopg
import psycopg_pool
import pytest
from psycopg import errors as pg

from sensorlog.credentials import CredentialsError
from sensorlog_query.errors import InvalidArgumentError, QueryError, mapped

STATEMENT = "SELECT secret FROM hidden -- postgresql://user:password@host"


def kinds_of(base: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield `base` and everything below it."""
    yield base
    for kind in base.__subclasses__():
        yield from kinds_of(kind)


ALL = sorted({*kinds_of(psycopg.Error), *kinds_of(psycopg.Warning)}, key=lambda kind: kind.__qualname__)


def test_the_list_of_errors_is_psycopgs() -> None:
    """The next test looks at all of them, the pool's included."""
    assert len(ALL) > 250
    assert psycopg_pool.PoolTimeout in ALL


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__qualname__)
def test_no_database_error_escapes(kind: type[Exception]) -> None:
    """Each has a code, never UNKNOWN, and a message without statement, credentials or the database's own words."""
    error = mapped(kind(STATEMENT))
    assert isinstance(error, QueryError)
    assert error.code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)
    assert error.status().code == error.code.value[0]
    assert not any(word in str(error) for word in ("secret", "hidden", "password"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (pg.QueryCanceled(), grpc.StatusCode.DEADLINE_EXCEEDED),
        (psycopg_pool.PoolTimeout(), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (psycopg_pool.TooManyRequests(), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (psycopg_pool.PoolClosed(), grpc.StatusCode.UNAVAILABLE),
        (psycopg.OperationalError("server closed the connection"), grpc.StatusCode.UNAVAILABLE),
        (psycopg.InterfaceError("the connection is closed"), grpc.StatusCode.UNAVAILABLE),
        (pg.AdminShutdown(), grpc.StatusCode.UNAVAILABLE),
        (pg.CannotConnectNow(), grpc.StatusCode.UNAVAILABLE),
        (pg.TooManyConnections(), grpc.StatusCode.UNAVAILABLE),
        (pg.UndefinedTable(), grpc.StatusCode.UNAVAILABLE),
        (pg.UndefinedColumn(), grpc.StatusCode.UNAVAILABLE),
        (pg.InsufficientPrivilege(), grpc.StatusCode.UNAVAILABLE),
        (pg.SerializationFailure(), grpc.StatusCode.UNAVAILABLE),
        (pg.SyntaxError(), grpc.StatusCode.INTERNAL),
        (CredentialsError("cannot read uri"), grpc.StatusCode.UNAVAILABLE),
        (ValueError("a fault of ours"), grpc.StatusCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_the_code_says_what_a_caller_can_do(error: Exception, code: grpc.StatusCode) -> None:
    """Wait, allow more time, ask for less, or report it."""
    assert mapped(error).code == code


def test_an_internal_error_can_be_found_in_the_log() -> None:
    """The caller gets an id; two errors do not share one."""
    first, second = mapped(ValueError()), mapped(ValueError())
    assert str(first) != str(second)
    assert "internal error" in str(first)


def test_our_own_errors_stay_as_they_are() -> None:
    """What a method raised on purpose is not mapped again."""
    error = InvalidArgumentError("page", "must be at least 1")
    assert mapped(error) is error
