"""A statement sent through libpq answers and fails as one sent by a cursor does."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import adapters
from psycopg.pq import TransactionStatus

from sensorlog_query import microseconds
from sensorlog_query.connections import cut_off
from sensorlog_query.microseconds import BEGINNING, END, Moment
from sensorlog_query.prepared import Prepared, PreparingConnection
from support.database import Database
from support.waiting import wait_until

pytestmark = pytest.mark.integration

BIGINT, TIMESTAMPTZ = adapters.types["int8"], adapters.types["timestamptz"]
SUM = Prepared(b"sum", b"SELECT int8send(sum(n)::bigint + $2) FROM unnest($1) n", (BIGINT.array_oid, BIGINT.oid))
MOMENT = Prepared(b"moment", b"SELECT timestamptz_send($1)", (TIMESTAMPTZ.oid,))
NOTHING = Prepared(b"nothing", b"SELECT string_agg(''::bytea, '') WHERE $1 < 0", (BIGINT.oid,))
DIVIDED = Prepared(b"divided", b"SELECT int8send(1 / $1)", (BIGINT.oid,))
ENDLESS = Prepared(b"endless", b"SELECT pg_sleep($1)", (BIGINT.oid,))
WRONG = Prepared(b"wrong", b"SELECT * FROM no_such_table WHERE $1 = 1", (BIGINT.oid,))


@pytest.fixture
def connection(database: Database) -> Iterator[PreparingConnection]:
    """Return a connection of one's own."""
    with PreparingConnection.connect(database.uri, autocommit=True) as connection:
        microseconds.register(connection)
        yield connection


def _number(value: bytes | None) -> int:
    assert value is not None
    return int.from_bytes(value, "big", signed=True)


def test_parameters_arrive_as_they_are(connection: PreparingConnection) -> None:
    """The widest numbers, empty arrays, and moments up to infinity."""
    assert _number(connection.value(SUM, ([1, 2, 2**62], -5))) == 2**62 - 2
    assert connection.value(SUM, ([], 0)) is None
    assert connection.value(NOTHING, (1,)) is None
    for moment in (Moment(0), Moment(1_646_409_307_000_001), BEGINNING, END):
        [(expected,)] = connection.cursor(binary=True).execute("SELECT timestamptz_send(%s)", [moment]).fetchall()
        assert connection.value(MOMENT, (moment,)) == expected


def test_a_statement_is_prepared_once(connection: PreparingConnection) -> None:
    """The database plans it once for all the calls that a connection serves."""
    for n in range(5):
        assert _number(connection.value(SUM, ([n], 1))) == n + 1
    prepared = connection.execute("SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE name = 'sum'")
    assert prepared.fetchall() == [(5,)]


def test_statements_that_a_rollback_deallocated_are_prepared_again(connection: PreparingConnection) -> None:
    """As psycopg does after some failures."""
    connection.value(SUM, ([1], 1))
    connection.execute("DEALLOCATE ALL")
    assert _number(connection.value(SUM, ([1], 1))) == 2


def test_an_error_is_raised_as_what_it_is_and_the_connection_survives(connection: PreparingConnection) -> None:
    """So that `errors` knows what to make of it."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.value(DIVIDED, (0,))
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.value(WRONG, (1,))
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert _number(connection.value(DIVIDED, (1,))) == 1


def test_a_statement_timeout_is_a_cancelled_query(connection: PreparingConnection) -> None:
    """Which becomes DEADLINE_EXCEEDED."""
    connection.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.value(ENDLESS, (60,))


def test_a_cancel_request_frees_the_thread_that_waits(connection: PreparingConnection, database: Database) -> None:
    """The caller who is gone keeps neither a thread nor the database."""

    def cancel() -> None:
        _wait_for_sleep(connection, database)
        connection.cancel_safe()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.value(ENDLESS, (60,))
    canceller.join()


@pytest.mark.parametrize("how", ["terminated", "cut off"])
def test_a_lost_connection_is_an_operational_error(
    connection: PreparingConnection, database: Database, how: str
) -> None:
    """Which becomes UNAVAILABLE, and the pool takes another connection."""

    def end() -> None:
        _wait_for_sleep(connection, database)
        if how == "terminated":
            database.execute("SELECT pg_terminate_backend(%s)", [pid])
        else:
            cut_off(connection)

    pid = connection.info.backend_pid
    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(psycopg.OperationalError):
        connection.value(ENDLESS, (60,))
    thread.join()
    assert connection.broken


def _wait_for_sleep(connection: PreparingConnection, database: Database) -> None:
    statement = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    pid = connection.info.backend_pid
    wait_until(lambda: database.execute(statement, [pid]), deadline=20, what="the statement to run")
