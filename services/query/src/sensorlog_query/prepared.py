"""Statements that answer with one value, sent through libpq without a cursor.

For a statement that is sent hundreds of times a second, a cursor costs several times what libpq does: it adapts the
parameters, looks at what came, and gives up the interpreter's lock several times, for which other calls then compete.
This waits in libpq, once. The thread that waits is freed like one that waits for a cursor, by a cancel request or by
the end of the connection's socket.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, OperationalError
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from sensorlog.timestamps import POSTGRES_EPOCH_US
from sensorlog_query.microseconds import Moment

Parameter = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement whose parameters are $1, $2... of `types`, and whose answer is one value, in binary format."""

    name: bytes
    text: bytes
    types: tuple[int, ...]


class PreparingConnection(Connection[Any]):
    """A connection that knows which statements are prepared in its session."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._known: set[bytes] = set()

    def value(self, statement: Prepared, parameters: Sequence[Parameter]) -> bytes | None:
        """Return the value of a statement outside of a transaction; raises what a cursor raises."""
        if statement.name not in self._known:
            self._prepare(statement)
        try:
            return self._executed(statement, parameters)
        except InvalidSqlStatementName:  # psycopg deallocates all statements when it rolls back
            self._prepare(statement)
            return self._executed(statement, parameters)

    def _prepare(self, statement: Prepared) -> None:
        self._check(self.pgconn.prepare(statement.name, statement.text, statement.types))
        self._known.add(statement.name)

    def _executed(self, statement: Prepared, parameters: Sequence[Parameter]) -> bytes | None:
        values, formats = zip(*map(_encoded, parameters), strict=True)
        result = self.pgconn.exec_prepared(statement.name, values, formats, Format.BINARY)
        self._check(result)
        return result.get_value(0, 0)

    def _check(self, result: PGresult) -> None:
        if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            return
        if self.pgconn.status == ConnStatus.BAD:  # then there is no SQLSTATE that would say so
            raise OperationalError(result.get_error_message())
        raise error_from_result(result)


def _encoded(parameter: Parameter) -> tuple[bytes, Format]:
    if isinstance(parameter, Moment):
        return (parameter - POSTGRES_EPOCH_US).to_bytes(8, "big", signed=True), Format.BINARY
    if isinstance(parameter, int):
        return b"%d" % parameter, Format.TEXT
    return f"{{{','.join(map(str, parameter))}}}".encode(), Format.TEXT
