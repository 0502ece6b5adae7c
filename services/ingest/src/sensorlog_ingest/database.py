"""Connections of the writer: bounded waits, so that a network that swallows packets is noticed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sensorlog.credentials import DATABASE_URI, CredentialsError, read_credential
from sensorlog_ingest import sql
from sensorlog_ingest.transaction import Connection

DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""libpq's parameters (seconds; the last in milliseconds) where the Secret's uri does not say otherwise."""


def connector(directory: Path) -> Callable[[], Connection]:
    """Return a function that opens a connection to the database of the mounted Secret in `directory`.

    The Secret is read at each connection: a rotated password is taken up by itself. Raises CredentialsError at once
    if it cannot be read or is no connection string; the function raises psycopg.OperationalError for that.
    """
    _parameters(directory)

    def connect() -> Connection:
        try:
            parameters = _parameters(directory)
        except CredentialsError as e:  # while the kubelet swaps the files
            raise psycopg.OperationalError(str(e)) from e
        connection = psycopg.connect(autocommit=True, **parameters)
        # A COPY then leaves in one call of libpq that needs no Python in between: a writer that had to ask for the
        # interpreter's lock after each full socket buffer would wait for the thread that decodes.
        connection.pgconn.nonblocking = 0
        try:
            connection.execute(sql.SESSION)
        except psycopg.Error:
            connection.close()
            raise
        return connection

    return connect


def _parameters(directory: Path) -> dict[str, Any]:
    uri = read_credential(directory, DATABASE_URI)
    try:
        return DEFAULTS | conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        # Without psycopg's text, which quotes the uri, password included.
        raise CredentialsError(
            f"{directory / DATABASE_URI} is no connection string;"
            " write it like postgresql://user:password@host:5432/database"
        ) from None
