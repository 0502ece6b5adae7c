"""The table of dead letters as people and a replay see it: counted, listed, read, and taken in bounded batches."""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sensorlog.letters import Contents, Envelope, LetterId, ReasonCount, Selection
from sensorlog_ingest import sql
from sensorlog_ingest.dead_letters import DeadLetter
from sensorlog_ingest.messages import Header
from sensorlog_ingest.transaction import Connection

MAX_LETTERS = 1000
MAX_BYTES = 4 * 1024 * 1024
"""A batch closes at the first of the two: the pod's memory is ingest's, and what is decoded takes four times its size.

A single letter may be larger, as a single message may.
"""

PAGE_LETTERS = 10 * MAX_LETTERS
"""How many letters are looked at in one query, without their values, to be divided into batches."""

FIRST = LetterId("", -1, -1)
"""Less than any letter's."""


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as the message it was: a `messages.Message` that remembers when it was stored."""

    id: LetterId
    received_at: datetime
    stored_key: bytes | None
    stored_value: bytes | None
    stored_headers: Sequence[Header]

    def topic(self) -> str:
        """Return the topic."""
        return self.id.topic

    def partition(self) -> int:
        """Return the partition."""
        return self.id.partition

    def offset(self) -> int:
        """Return the offset."""
        return self.id.offset

    def key(self) -> bytes | None:
        """Return the key."""
        return self.stored_key

    def value(self) -> bytes | None:
        """Return the value: what was rejected of the message."""
        return self.stored_value

    def headers(self) -> Sequence[Header]:
        """Return the headers."""
        return self.stored_headers


class Peeked(NamedTuple):
    """A letter that is there, and how many bytes its value has."""

    id: LetterId
    received_at: datetime
    value_bytes: int


class LetterTable:
    """Reads and changes the dead letters of one pipeline on a connection that is given to it (autocommit)."""

    def __init__(self, connection: Connection, statements: sql.LetterStatements) -> None:
        self._connection = connection
        self._statements = statements

    def now(self) -> datetime:
        """Return the time of the database's clock, which `received_at` is of."""
        row = self._connection.execute(sql.NOW).fetchone()
        assert row is not None  # noqa: S101 -- a SELECT without FROM has one row
        now: datetime = row[0]
        return now

    # Looking

    def counts(self, selection: Selection, now: datetime) -> tuple[ReasonCount, ...]:
        """Return how many of the fitting letters have which reason, the most frequent first."""
        rows = self._connection.execute(self._statements.count, _fitting(selection, now))
        return tuple(
            ReasonCount(reason=reason, count=count, value_bytes=size, newest=newest)
            for reason, count, size, newest in rows
        )

    def newest(self, selection: Selection, now: datetime, limit: int) -> Iterator[Envelope]:
        """Yield at most `limit` of the fitting letters, the newest first."""
        rows = self._connection.execute(self._statements.list, {**_fitting(selection, now), "limit": limit})
        for *where, received_at, reason, detail, size in rows:
            yield Envelope(id=LetterId(*where), received_at=received_at, reason=reason, detail=detail, value_bytes=size)

    def read(self, letter: LetterId) -> tuple[Contents, bytes | None] | None:
        """Return all of a letter and its value; None where there is no such letter."""
        row = self._connection.execute(self._statements.read, letter._asdict()).fetchone()
        if row is None:
            return None
        received_at, reason, detail, key, headers, value = row
        size = None if value is None else len(value)
        envelope = Envelope(id=letter, received_at=received_at, reason=reason, detail=detail, value_bytes=size)
        encoded_key = None if key is None else base64.b64encode(key).decode("ascii")
        return Contents(envelope=envelope, key=encoded_key, headers=headers), value

    # Taking

    def batches(self, selection: Selection, now: datetime) -> Iterator[list[Peeked]]:
        """Yield the letters that are meant in batches for one transaction each, as they are there when it begins.

        Letters that go back while this runs do not come again, and neither do those that arrive after `now`.
        """
        pages = [self._named(selection.ids)] if selection.ids else self._pages(selection, now)
        for page in pages:
            yield from bounded(page)

    def _named(self, ids: Iterable[LetterId]) -> list[Peeked]:
        topics, partitions, offsets = zip(*dict.fromkeys(ids), strict=True)
        parameters = {"topics": list(topics), "partitions": list(partitions), "offsets": list(offsets)}
        return [_peeked(row) for row in self._connection.execute(self._statements.peek_named, parameters)]

    def _pages(self, selection: Selection, now: datetime) -> Iterator[list[Peeked]]:
        fitting = {**_fitting(selection, now), "limit": PAGE_LETTERS}
        last = FIRST
        while True:
            after = {f"after_{name}": value for name, value in last._asdict().items()}
            page = [_peeked(row) for row in self._connection.execute(self._statements.peek_fitting, fitting | after)]
            if not page:
                return
            yield page
            last = page[-1].id

    def take(self, peeked: Collection[Peeked]) -> list[StoredLetter]:
        """Delete letters in the caller's transaction and return them, the oldest first: those that are still there.

        Waits for whoever else has taken some of them.
        """
        rows = self._connection.execute(self._statements.take, _keys(peeked))
        letters = [
            StoredLetter(LetterId(*where), received_at, key, value, headers_of_json(headers))
            for *where, received_at, key, value, headers in rows
        ]
        return sorted(letters, key=lambda letter: (letter.received_at, letter.id))

    def delete(self, peeked: Collection[Peeked]) -> set[LetterId]:
        """Delete letters and return which were still there."""
        return {LetterId(*row) for row in self._connection.execute(self._statements.delete, _keys(peeked))}

    def restore(self, letters: Iterable[DeadLetter], received_at: Mapping[LetterId, datetime]) -> None:
        """Put letters back in the transaction that took them, as they are now but with the time they had."""
        rows = [
            asdict(letter) | {"received_at": received_at[LetterId(letter.topic, letter.partition, letter.offset)]}
            for letter in letters
        ]
        if rows:
            self._connection.cursor().executemany(self._statements.restore, rows)


def bounded(letters: Iterable[Peeked]) -> Iterator[list[Peeked]]:
    """Yield `letters` in order in batches of at most MAX_LETTERS and MAX_BYTES, each of at least one letter."""
    batch: list[Peeked] = []
    size = 0
    for letter in letters:
        if batch and (len(batch) == MAX_LETTERS or size + letter.value_bytes > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += letter.value_bytes
    if batch:
        yield batch


def headers_of_json(headers: Iterable[Mapping[str, Any]] | None) -> list[Header]:
    """Return the headers that `dead_letters.headers_as_json` wrote."""
    return [
        (header["key"], base64.b64decode(header["base64"]) if "base64" in header else header["value"])
        for header in headers or ()
    ]


def _fitting(selection: Selection, now: datetime) -> dict[str, Any]:
    newer_than = selection.newer_than
    return {
        "reason": selection.reason,
        "topic": selection.topic,
        "since": None if newer_than is None else now - timedelta(seconds=newer_than),
        "until": selection.until or now,
    }


def _peeked(row: Sequence[Any]) -> Peeked:
    *where, received_at, size = row
    return Peeked(LetterId(*where), received_at, size)


def _keys(peeked: Iterable[Peeked]) -> dict[str, list[Any]]:
    listed = list(peeked)
    return {
        "topics": [each.id.topic for each in listed],
        "partitions": [each.id.partition for each in listed],
        "offsets": [each.id.offset for each in listed],
        "received": [each.received_at for each in listed],
    }
