"""What a call can fail with, and the one boundary where foreign errors become these.

QueryError
├── InvalidArgumentError    INVALID_ARGUMENT    the request; names the field and what is accepted
├── UnauthenticatedError    UNAUTHENTICATED     no token, or none that holds here
├── PermissionDeniedError   PERMISSION_DENIED   the token's owner may not read this pipeline
├── DeadlineError           DEADLINE_EXCEEDED   the caller's deadline, or the service's own limit
├── CallerGoneError         CANCELLED           nobody waits for the answer any more
├── LimitError              RESOURCE_EXHAUSTED  the answer or the load is above a limit
├── UnavailableError        UNAVAILABLE         the database or the API server is away; trying again later helps
└── InternalError           INTERNAL            a fault of ours; the log has the rest under `error_id`

Nothing of a statement, a connection string or a database's own message reaches a caller.
"""

import uuid
from collections.abc import Callable
from typing import ClassVar

import grpc
import psycopg
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from sensorlog.credentials import CredentialsError

log = structlog.get_logger()


class QueryError(Exception):
    """A call ends with `code` and this message."""

    code: ClassVar[grpc.StatusCode]

    def status(self) -> Status:
        """Return what the caller gets, as google.rpc.Status."""
        return Status(code=self.code.value[0], message=str(self))


class InvalidArgumentError(QueryError):
    """The request's `field` is not acceptable; `description` says what is."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description

    def status(self) -> Status:
        """Return the status with the field as google.rpc.BadRequest."""
        status = super().status()
        violation = BadRequest.FieldViolation(field=self.field, description=self.description)
        detail = AnyMessage()
        detail.Pack(BadRequest(field_violations=[violation]))
        status.details.append(detail)
        return status


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
    ((PoolTimeout, TooManyRequests), lambda: LimitError(BUSY)),
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
