"""The connection of another login: same server, other user; libpq reads what comes out."""

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sensorlog_operator.connection_uri import password_of, with_login


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://admin:x@db:5432/readings", "postgresql://w:p@db:5432/readings"),
        ("postgres://admin@db", "postgresql://w:p@db/"),
        ("host=db port=6432 user=admin password=x dbname=readings", "postgresql://w:p@db:6432/readings"),
        ("postgresql://admin:x@[::1]:5432/readings", "postgresql://w:p@[::1]:5432/readings"),
        (
            "postgresql://admin:x@one:1,two:2/readings?target_session_attrs=read-write",
            "postgresql://w:p@one:1,two:2/readings?target_session_attrs=read-write",
        ),
        ("postgresql://admin:x@/readings?host=/run/postgresql", "postgresql://w:p@%2Frun%2Fpostgresql/readings"),
        (
            "postgresql://admin:x@db/readings?sslmode=verify-full&sslcert=/a.crt",
            "postgresql://w:p@db/readings?sslmode=verify-full",
        ),
    ],
)
def test_only_who_connects_is_another(uri: str, expected: str) -> None:
    """Hosts, ports, database and parameters stay."""
    assert with_login(uri, "w", "p") == expected


TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20)


@given(user=TEXT, password=TEXT, database=TEXT, options=TEXT)
def test_libpq_reads_what_was_meant(user: str, password: str, database: str, options: str) -> None:
    """Whatever characters there are."""
    before = make_conninfo("host=db port=5432 user=admin password=x", dbname=database, options=options)
    after = conninfo_to_dict(with_login(before, user, password))
    assert after == {
        "host": "db",
        "port": "5432",
        "user": user,
        "password": password,
        "dbname": database,
        "options": options,
    }
    assert password_of(with_login(before, user, password)) == password


@pytest.mark.parametrize("hosts", ["one,two,three", "[::1],two"])
def test_one_port_serves_all_hosts(hosts: str) -> None:
    """As libpq has it."""
    after = conninfo_to_dict(with_login(f"postgresql://admin@{hosts}/x?port=7", "w", "p"))
    assert set(str(after["port"]).split(",")) == {"7"}


def test_what_is_no_uri_is_refused() -> None:
    """By psycopg's error, which the caller maps."""
    with pytest.raises(psycopg.ProgrammingError):
        with_login("postgresql//db", "w", "p")
