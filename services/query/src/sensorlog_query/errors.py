"""What a call can fail with, and the one boundary where foreign errors become these.

QueryError
├── InvalidArgumentError    INVALID_ARGUMENT    the request; names the field and what is accepted
├── UnauthenticatedError    UNAUTHENTICATED     no token, or none that holds here
├── PermissionDeniedError   PERMISSION_DENIED   the token's owner may not read this pipeline
├── DeadlineError           DEADLINE_EXCEEDED   the caller's deadline, or the service's own limit
├── CallerGoneError         CANCELLED           nobody waits for the answer any more
├── LimitError              RESOURCE_EXHAUSTED  the answer is above a limit
│   └── BusyError           RESOURCE_EXHAUSTED  the load is; says when to try again
├── StaleError              FAILED_PRECONDITION the replica's data may be older than the caller accepts
├── UnavailableError        UNAVAILABLE         the database or the API server is away; trying again later helps
└── InternalError           INTERNAL            a fault of ours; the log has the rest under `error_id`

Nothing of a statement, a connection string or a database's own message reaches a caller.
"""

import random
import uuid
from collections.abc import Callable
from typing import ClassVar

import grpc
import psycopg
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from sensorlog.credentials import CredentialsError

log = structlog.get_logger()

Trailer = tuple[str, str]
"""A key and a value of a call's trailing metadata."""

STALENESS = "staleness-ms"
PUSHBACK = "grpc-retry-pushback-ms"
"""Obeyed by gRPC's own retries: https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback"""

RETRY_SECONDS = (0.5, 1.5)
"""When a crowd is told to come back: each caller at a time of its own, or it would be a crowd again."""


class QueryError(Exception):
    """A call ends with `code` and this message."""

    code: ClassVar[grpc.StatusCode]

    def status(self) -> Status:
        """Return what the caller gets, as google.rpc.Status."""
        return Status(code=self.code.value[0], message=str(self), details=map(_packed, self.details()))

    def details(self) -> tuple[Message, ...]:
        """Return what google.rpc.Status says beside the message, for programs."""
        return ()

    def trailers(self) -> tuple[Trailer, ...]:
        """Return the trailing metadata beside the status."""
        return ()


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


class InvalidArgumentError(QueryError):
    """The request's `field` is not acceptable; `description` says what is."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description

    def details(self) -> tuple[Message, ...]:
        """Return the field."""
        violation = BadRequest.FieldViolation(field=self.field, description=self.description)
        return (BadRequest(field_violations=[violation]),)


class UnauthenticatedError(QueryError):
    """The caller did not show who it is."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(QueryError):
    """The caller is known, and may not read this pipeline."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineError(QueryError):
    """There was not enough time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallerGoneError(QueryError):
    """The caller cancelled or hung up."""

    code = grpc.StatusCode.CANCELLED


class LimitError(QueryError):
    """A limit of the service was reached; the message says which."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class BusyError(LimitError):
    """More is asked of the service at once than it takes. `retry_after` is when to try again, in seconds."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after = random.uniform(*RETRY_SECONDS)  # noqa: S311 -- nobody gains by guessing it

    def details(self) -> tuple[Message, ...]:
        """Return when to try again."""
        delay = Duration()
        delay.FromMilliseconds(int(self.retry_after * 1000))
        return (RetryInfo(retry_delay=delay),)

    def trailers(self) -> tuple[Trailer, ...]:
        """Return when to try again."""
        return ((PUSHBACK, str(int(self.retry_after * 1000))),)


class StaleError(QueryError):
    """The replica may lack what the primary has had for longer than the caller accepts; both in milliseconds.

    Not UNAVAILABLE: clients repeat that by themselves, and a replica that lags is not helped by more calls.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, staleness: int, accepted: int) -> None:
        super().__init__(
            f"the replica's data may be {staleness} ms old, above max-staleness-ms {accepted}; accept older data, or"
            " try again later"
        )
        self.staleness = staleness
        self.accepted = accepted

    def details(self) -> tuple[Message, ...]:
        """Return both numbers."""
        numbers = {"staleness_ms": str(self.staleness), "max_staleness_ms": str(self.accepted)}
        return (ErrorInfo(reason="STALE", domain="sensorlog.dev", metadata=numbers),)

    def trailers(self) -> tuple[Trailer, ...]:
        """Return the staleness, as with an answer."""
        return ((STALENESS, str(self.staleness)),)


class UnavailableError(QueryError):
    """The database does not answer or is not ready yet, or nobody can say whether the caller may read."""

    code = grpc.StatusCode.UNAVAILABLE


class InternalError(QueryError):
    """Something that should not happen; the caller gets only its id."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self, error_id: str) -> None:
        super().__init__(f"internal error {error_id}: the service's log says more under this id")
        self.error_id = error_id


DATABASE_AWAY = "the database is not available; try again"
NOT_PROVISIONED = "the pipeline's schema is not ready in the database; see the pipeline's SchemaReady condition"
FORBIDDEN = "the database user may not read the pipeline's schema; grant it USAGE and SELECT"
TOO_SLOW = "the database did not answer in time; narrow the range or allow more time"
BUSY = "all database connections are in use; try again"

_MAPPING: tuple[tuple[tuple[type[BaseException], ...], Callable[[], QueryError]], ...] = (
    # statement_timeout and a cancelled statement share a SQLSTATE. Who cancelled reads no answer.
    ((pg.QueryCanceled, pg.LockNotAvailable, pg.IdleInTransactionSessionTimeout), lambda: DeadlineError(TOO_SLOW)),
    ((PoolTimeout, TooManyRequests), lambda: BusyError(BUSY)),
    ((pg.InsufficientPrivilege,), lambda: UnavailableError(FORBIDDEN)),
    (
        (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.InvalidSchemaName),
        lambda: UnavailableError(NOT_PROVISIONED),
    ),
    # A replica that must replay cancels readers with these; they are worth another try.
    ((pg.SerializationFailure, pg.DeadlockDetected), lambda: UnavailableError(DATABASE_AWAY)),
    ((psycopg.OperationalError, psycopg.InterfaceError), lambda: UnavailableError(DATABASE_AWAY)),
    ((CredentialsError,), lambda: UnavailableError(DATABASE_AWAY)),
)
"""Which foreign error means what; the first that fits counts."""


def mapped(error: Exception) -> QueryError:
    """Return `error` as a QueryError, logged where the caller is not told enough to mend it."""
    if isinstance(error, QueryError):
        return error
    for kinds, make in _MAPPING:
        if isinstance(error, kinds):
            ours = make()
            log.info("call failed", code=ours.code.name, error=type(error).__name__, detail=str(error))
            return ours
    unexpected = InternalError(uuid.uuid4().hex)
    log.error("unexpected error", error_id=unexpected.error_id, exc_info=error)
    return unexpected
