"""What comes out of a COPY in parts is what the database sent, and its errors are the database's own."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from sensorlog_query.copy_binary import FLOAT, INTEGER, blocks, parts
from support.database import Database

pytestmark = pytest.mark.integration

ROWS = 200_000
COPY = "COPY ({}) TO STDOUT (FORMAT binary)"
NUMBERS = COPY.format(f"SELECT n::bigint, n / 2::float8 FROM generate_series(1, {ROWS}) n")
DIVIDED = COPY.format(f"SELECT 1 / ({ROWS // 2} - n) FROM generate_series(1, {ROWS}) n")
ENDLESS = COPY.format("SELECT n, pg_sleep(0.0001)::text FROM generate_series(1, 1000000000) n")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    """Return a connection of one's own."""
    with psycopg.connect(database.uri, autocommit=True) as connection:
        yield connection


def test_parts_hold_every_byte_and_far_more_than_a_row_each(connection: psycopg.Connection) -> None:
    """The connection can be used again afterwards."""
    with connection.cursor().copy(NUMBERS) as copy:
        received = list(parts(copy, connection.pgconn))
    [block] = blocks(received, (INTEGER, FLOAT), ROWS)
    assert block["v0"].tolist() == list(range(1, ROWS + 1))
    assert block["v1"].tolist() == [n / 2 for n in range(1, ROWS + 1)]
    assert len(received) < ROWS / 50
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_an_empty_table_is_an_empty_stream(connection: psycopg.Connection) -> None:
    """Header and trailer."""
    with connection.cursor().copy(COPY.format("SELECT 1::bigint WHERE false")) as copy:
        assert list(blocks(parts(copy, connection.pgconn), (INTEGER,), 10)) == []


def test_an_error_in_the_middle_is_raised_as_what_it_is(connection: psycopg.Connection) -> None:
    """A stream that broke must not look like one that ended, and the connection survives."""
    with pytest.raises(psycopg.errors.DivisionByZero), connection.cursor().copy(DIVIDED) as copy:
        list(parts(copy, connection.pgconn))
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_statement_timeout_is_a_cancelled_query(connection: psycopg.Connection) -> None:
    """Which becomes DEADLINE_EXCEEDED."""
    connection.execute("SET statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled), connection.cursor().copy(ENDLESS) as copy:
        list(parts(copy, connection.pgconn))


def test_a_session_that_is_terminated_is_an_operational_error(
    connection: psycopg.Connection, database: Database
) -> None:
    """Which becomes UNAVAILABLE."""
    with pytest.raises(psycopg.OperationalError), connection.cursor().copy(ENDLESS) as copy:
        list(_after_first(parts(copy, connection.pgconn), lambda: _terminate(connection, database)))
    assert connection.broken


def _after_first(items: Iterator[bytes], act: Callable[[], None]) -> Iterator[bytes]:
    """Yield the items, and act when the first is there."""
    yield next(items)
    act()
    yield from items


def _terminate(connection: psycopg.Connection, database: Database) -> None:
    database.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
