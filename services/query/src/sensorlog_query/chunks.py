"""A hypertable's chunks as steps through time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from psycopg import Cursor

from sensorlog_query.sql import Statements
from sensorlog_query.validation import Selection

MAX_CHUNKS_PER_STEP = 16


def chunks_of(cursor: Cursor[tuple[Any, ...]], statements: Statements, selection: Selection) -> list[Selection]:
    """Return the parts of `selection` that have a chunk, oldest first. Together they hold all its readings."""
    parameters = {"schema": statements.schema, "start": selection.start, "end": selection.end}
    found = cursor.execute(statements.chunks(), parameters)
    return [replace(selection, start=max(start, selection.start), end=min(end, selection.end)) for start, end in found]


def steps(chunks: Sequence[Selection], *, descending: bool) -> Iterator[Selection]:
    """Yield ranges over 1, 2, 4... neighbouring chunks, in the wanted order.

    A page mostly lies in one chunk. Doubling bounds the number of statements where chunks are sparse.
    """
    ordered = list(reversed(chunks)) if descending else list(chunks)
    size = 1
    while ordered:
        step, ordered = ordered[:size], ordered[size:]
        yield replace(step[0], start=min(s.start for s in step), end=max(s.end for s in step))
        size = min(2 * size, MAX_CHUNKS_PER_STEP)
