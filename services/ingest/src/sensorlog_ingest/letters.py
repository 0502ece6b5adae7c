"""`python -m sensorlog_ingest.letters`: looks at, replays and discards dead letters, for `sensorlog dead-letters`.

It runs beside ingest in its container, by `kubectl exec`, and reads the same settings. Requests come on standard
input, answers go to standard output: the protocol is `sensorlog.letters`.
Exit codes: 0 done, 1 refused or failed, as the last answer says.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import IO

import psycopg

from sensorlog.credentials import CredentialsError
from sensorlog.letters import (
    Answer,
    Failed,
    LetterId,
    Piece,
    Progress,
    Refused,
    Request,
    Returned,
    Selection,
    Summary,
    pieces,
    read_request,
)
from sensorlog.pipeline import PipelineConfig, PipelineConfigError, read_pipeline_config
from sensorlog_ingest import sql
from sensorlog_ingest.database import connector
from sensorlog_ingest.rejections import Reason
from sensorlog_ingest.replay import Replacement, Replayed, Replayer
from sensorlog_ingest.settings import SettingsError, read_settings
from sensorlog_ingest.stored_letters import LetterTable, Peeked
from sensorlog_ingest.transaction import Connection

DEFAULT_LIMIT = 20


class _RefusedError(Exception):
    """The request does not fit; the message says what would."""


def main(stdin: IO[str] = sys.stdin, stdout: IO[str] = sys.stdout) -> int:
    """Carry out the request on `stdin` and return the process's exit status."""
    try:
        for answer in _answers(stdin):
            _say(stdout, answer)
    except (_RefusedError, ValueError) as e:  # pydantic's and base64's errors are ValueErrors
        _say(stdout, Refused(message=" ".join(str(e).split())))
    except (SettingsError, PipelineConfigError, CredentialsError) as e:
        _say(stdout, Failed(message=str(e)))
    except psycopg.Error as e:
        lines = str(e).strip().splitlines() or [type(e).__name__]
        _say(stdout, Failed(message=f"the database does not do it: {lines[0]}"))
    else:
        return 0
    return 1


def _say(stdout: IO[str], answer: Answer) -> None:
    print(answer.line(), file=stdout, flush=True)


def _answers(stdin: IO[str]) -> Iterator[Answer]:
    request, replacement = read_request(iter(stdin))
    check(request)
    settings = read_settings()
    config = read_pipeline_config(settings.config)
    with closing(connector(settings.database_dir)()) as connection:
        connection.execute(sql.SESSION_OF_LETTERS)
        yield from _Work(config, connection, request, replacement).answers()


def check(request: Request) -> None:
    """Raise _RefusedError where a request makes no sense."""
    selection = request.selection
    if selection.reason is not None and selection.reason not in set(Reason):
        raise _RefusedError(f"there is no reason {selection.reason!r}; there are: {', '.join(Reason)}")
    if request.replacement is not None and (request.action != "replay" or len(selection.ids) != 1):
        raise _RefusedError("a corrected value is for the replay of exactly one letter")
    if request.action == "show" and not selection.ids:
        raise _RefusedError("say which letter to show")


class _Work:
    """One request, being carried out on a connection."""

    def __init__(self, config: PipelineConfig, connection: Connection, request: Request, replacement: bytes) -> None:
        self._table = LetterTable(connection, sql.letter_statements(config.db_schema))
        self._replayer = Replayer(config, connection, self._table)
        self._request = request
        self._replacement = replacement
        self._now: datetime = self._table.now()

    @property
    def _selection(self) -> Selection:
        return self._request.selection

    def answers(self) -> Iterator[Answer]:
        actions: dict[str, Callable[[], Iterator[Answer]]] = {
            "list": self._list,
            "show": self._show,
            "replay": self._replay,
            "discard": self._discard,
        }
        return actions[self._request.action]()

    def _list(self) -> Iterator[Answer]:
        yield Summary(as_of=self._now, reasons=self._table.counts(self._selection, self._now))
        yield from self._table.newest(self._selection, self._now, self._request.limit or DEFAULT_LIMIT)

    def _show(self) -> Iterator[Answer]:
        for letter in self._selection.ids:
            found = self._table.read(letter)
            if found is None:
                yield Progress(missing=(letter,))
                continue
            contents, value = found
            yield contents
            for text in pieces(value or b""):
                yield Piece(base64=text)

    def _discard(self) -> Iterator[Answer]:
        done = _Done(self._selection.ids)
        for batch in self._table.batches(self._selection, self._now):
            if self._request.dry_run:
                done.note(Replayed(taken=frozenset(each.id for each in batch)))
            else:
                done.note(Replayed(taken=frozenset(self._table.delete(batch))))
            yield done.progress()
        yield done.progress(missing=True)

    def _replay(self) -> Iterator[Answer]:
        done = _Done(self._selection.ids)
        for batch in self._table.batches(self._selection, self._now):
            result = self._replay_batch(batch)
            done.note(result)
            for letter in result.returned:
                where = LetterId(letter.topic, letter.partition, letter.offset)
                yield Returned(id=where, reason=letter.reason, detail=letter.detail)
            yield done.progress()
        yield done.progress(missing=True)

    def _replay_batch(self, batch: Collection[Peeked]) -> Replayed:
        dry_run, written_as = self._request.dry_run, self._request.replacement
        if written_as is None:
            return self._replayer.replay(batch, dry_run=dry_run)
        return self._replayer.replay_corrected(batch, Replacement(self._replacement, written_as), dry_run=dry_run)


@dataclass(slots=True)
class _Done:
    """The sum of what was done in several transactions."""

    named: Collection[LetterId]
    letters: int = 0
    readings: int = 0
    sensors: int = 0
    superseded: int = 0
    taken: frozenset[LetterId] = frozenset()

    def note(self, result: Replayed) -> None:
        self.letters += len(result.taken)
        self.readings += result.readings
        self.sensors += result.sensors
        self.superseded += result.superseded
        if self.named:
            self.taken |= result.taken

    def progress(self, *, missing: bool = False) -> Progress:
        return Progress(
            letters=self.letters,
            readings=self.readings,
            sensors=self.sensors,
            superseded=self.superseded,
            missing=tuple(each for each in self.named if each not in self.taken) if missing else (),
        )


if __name__ == "__main__":
    sys.exit(main())
