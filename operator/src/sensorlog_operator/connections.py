"""Connections to databases: none waits for ever, and what goes wrong on one is said in the operator's own errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from sensorlog_operator import sql
from sensorlog_operator.bounded import STATEMENT_SECONDS, BoundedConnection
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.outages import Outages

Connection = psycopg.Connection[dict[str, Any]]
"""A connection whose rows are dicts, as `connect` yields it."""

CONNECT_TIMEOUT_SECONDS = 5
LOCK_TIMEOUT_MS = 5_000
"""A DDL statement that waits for a lock makes every later reader of the table wait behind it: give up early."""

_OUTAGES = Outages()


@contextmanager
def connect(uri: str) -> Iterator[Connection]:
    """Yield an autocommit connection with bounded waits; failures are PipelineErrors."""
    _OUTAGES.check(uri)
    try:
        with mapped_errors():
            connection = _connected(uri)
    except UnavailableError as e:
        _OUTAGES.note(uri, e)
        raise
    except NeedsChangeError:
        _OUTAGES.over(uri)
        raise
    _OUTAGES.over(uri)
    with mapped_errors(), connection:
        yield connection


def _connected(uri: str) -> Connection:
    return BoundedConnection.connect(
        uri,
        autocommit=True,
        row_factory=dict_row,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="sensorlog-operator",
        options=f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={LOCK_TIMEOUT_MS}",
    )


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turn psycopg's errors into PipelineErrors: this is the one place that knows both."""
    try:
        yield
    except psycopg.Error as e:
        raise _mapped(e) from e


_PROBLEMS: tuple[tuple[Callable[[psycopg.Error, str], bool], type[PipelineError], Reason, str], ...] = (
    # libpq reports failures before the session starts without a SQLSTATE: then only the text tells.
    (
        lambda e, text: (
            isinstance(e, psycopg.errors.InvalidAuthorizationSpecification)
            or "password authentication failed" in text
            or "no pg_hba.conf entry" in text
        ),
        NeedsChangeError,
        Reason.DATABASE_AUTHENTICATION_FAILED,
        "The database refused the user or password of the connection Secret ({detail}). Correct the Secret's uri.",
    ),
    (
        lambda e, text: (
            isinstance(e, psycopg.errors.InvalidCatalogName) or ('database "' in text and "does not exist" in text)
        ),
        NeedsChangeError,
        Reason.DATABASE_REJECTED,
        "The database of the connection Secret's uri does not exist ({detail}). Create it or correct the uri.",
    ),
    (
        lambda e, _: isinstance(e, psycopg.errors.InsufficientPrivilege),
        NeedsChangeError,
        Reason.DATABASE_PERMISSION_DENIED,
        "The database user may not do this ({detail}). Grant CREATE on the database, or make the user its owner.",
    ),
    (
        lambda e, _: isinstance(e, psycopg.ProgrammingError) and e.sqlstate is None,
        NeedsChangeError,
        Reason.CONNECTION_URI_INVALID,
        # Without the detail: psycopg quotes the uri, password included.
        "The connection Secret's uri cannot be parsed; write it like postgresql://user:password@host:5432/database.",
    ),
    (
        lambda e, _: isinstance(e, psycopg.OperationalError | psycopg.InterfaceError),
        UnavailableError,
        Reason.DATABASE_UNAVAILABLE,
        "The database does not answer ({detail}). Check it and the Secret's uri; the operator keeps trying.",
    ),
    (
        lambda _e, _text: True,
        UnavailableError,
        Reason.DATABASE_REJECTED,
        "The database rejected a statement ({detail}). The operator keeps trying.",
    ),
)
"""Which error means what to a person; the first that fits counts."""


def _mapped(e: psycopg.Error) -> PipelineError:
    text = str(e).strip()
    detail = text.splitlines()[0] if text else type(e).__name__
    kind, reason, message = next((k, r, m) for fits, k, r, m in _PROBLEMS if fits(e, text))
    return kind(reason, message.format(detail=detail))


def is_held_up(error: PipelineError) -> bool:
    """Return whether a statement waited too long for something in the database, such as a table that is locked."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled)


def hurry(connection: Connection) -> None:
    """Let no statement of a connection wait for a lock for long, from now on: others wait behind it."""
    with mapped_errors():
        connection.execute(sql.HURRY)
