"""What the database says when it refuses a row."""

import psycopg

DATA_CLASSES = ("22", "23", "44", "P0")
"""SQLSTATE classes of errors that a row causes: data, integrity, view check, raised by a trigger."""

FEATURE_NOT_SUPPORTED = "0A000"
"""How TimescaleDB refuses a row for a chunk that takes no more inserts."""


def is_caused_by_rows(error: psycopg.Error) -> bool:
    """Return whether the database refused rows, as opposed to being away, full, locked or not as expected."""
    state = error.sqlstate or ""
    return state[:2] in DATA_CLASSES or state == FEATURE_NOT_SUPPORTED
