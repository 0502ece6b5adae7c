"""What `sensorlog dead-letters` and the program in the pipeline's ingest pod say to each other.

The program, `python -m sensorlog_ingest.letters`, has the database's credentials and ingest's decoder. The one
protocol of both ends is here, a JSON document on each line:

    stdin    a Request; the pieces of a replacement where it has one, in base64; an empty line ends
    stdout   answers, each with its `kind`, in the order that the request's action gives them:
                 list      a Summary, then an Envelope for each letter
                 show      a Contents, then the Pieces of its value, for each letter; a Progress for one that is missing
                 replay    a Returned for each letter that goes back, a Progress after each transaction
                 discard   a Progress after each transaction
             a Refused or a Failed where it cannot go on; the program ends with 1 then

Values travel in pieces because neither end should build up a line of dozens of megabytes. The empty line is there
because a Kubernetes exec stream before v5.channel.k8s.io cannot close its standard input.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, TypeAdapter

PIECE_BYTES = 48 * 1024
"""How much of a value stands in one line."""

Action = Literal["list", "show", "replay", "discard"]
Format = Literal["json", "protobuf"]


class LetterId(NamedTuple):
    """Where the message of a dead letter stood: the key of its row."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def parse_id(text: str) -> LetterId:
    """Return the LetterId that `topic/partition/offset` says; ValueError where it says none."""
    try:
        topic, partition, offset = text.split("/")
        return LetterId(topic, int(partition), int(offset))
    except ValueError:
        raise ValueError(f"{text!r} is not TOPIC/PARTITION/OFFSET, like logger.sensor.ts/0/1234") from None


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> str:
        """Return the document on one line, in ASCII: an exec stream cuts its text anywhere, also within a character."""
        return self.model_dump_json(ensure_ascii=True)


class Selection(_Line):
    """Which letters are meant: those of `ids`, or where there are none, all that fit the rest.

    `newer_than` is in seconds before now; `until` is a moment of the database's clock.
    """

    ids: tuple[LetterId, ...] = ()
    reason: str | None = None
    topic: str | None = None
    newer_than: NonNegativeFloat | None = None
    until: datetime | None = None


class Request(_Line):
    """What is to be done with which letters.

    `limit` is for list. A replay with `dry_run` does everything and rolls it back; one with `replacement` takes the
    pieces that follow, in this format, for the value of the only letter it names.
    """

    action: Action
    selection: Selection = Selection()
    limit: PositiveInt | None = None
    dry_run: bool = False
    replacement: Format | None = None


class ReasonCount(_Line):
    """How many letters have a reason, the size of their values, and when the newest was stored."""

    reason: str
    count: int
    value_bytes: int
    newest: datetime


class Summary(_Line):
    """The letters that are meant, at the moment `as_of` of the database's clock; the most frequent reason first."""

    kind: Literal["summary"] = "summary"
    as_of: datetime
    reasons: tuple[ReasonCount, ...]

    @property
    def count(self) -> int:
        """How many letters there are."""
        return sum(each.count for each in self.reasons)


class Envelope(_Line):
    """A letter without what was in the message; `value_bytes` is None where the message had no value."""

    kind: Literal["envelope"] = "envelope"
    id: LetterId
    received_at: datetime
    reason: str
    detail: str
    value_bytes: int | None


class Contents(_Line):
    """The rest of a letter but its value, which follows; `key` in base64, `headers` as the table has them."""

    kind: Literal["contents"] = "contents"
    envelope: Envelope
    key: str | None
    headers: list[dict[str, Any]] | None


class Piece(_Line):
    """A piece of the value of the letter whose Contents came last, in base64."""

    kind: Literal["piece"] = "piece"
    base64: str


class Returned(_Line):
    """A letter that was not stored, or not all of it: what is left, with its new reason and detail."""

    kind: Literal["returned"] = "returned"
    id: LetterId
    reason: str
    detail: str


class Progress(_Line):
    """What has been done up to now.

    letters     letters that were taken
    readings    readings stored
    sensors     sensors stored
    superseded  sensors left as they are, because what is known of them is as new or newer
    missing     of the ids that were named: those there is no letter of
    """

    kind: Literal["progress"] = "progress"
    letters: int = 0
    readings: int = 0
    sensors: int = 0
    superseded: int = 0
    missing: tuple[LetterId, ...] = ()


class Refused(_Line):
    """The request does not fit; `message` says what would."""

    kind: Literal["refused"] = "refused"
    message: str


class Failed(_Line):
    """It was tried and did not work. What the last Progress said was done, and nothing is half done."""

    kind: Literal["failed"] = "failed"
    message: str


Answer = Summary | Envelope | Contents | Piece | Returned | Progress | Refused | Failed

_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def read_answer(line: str) -> Answer:
    """Return the answer that stands on a line; ValueError where none does."""
    return _ANSWER.validate_json(line)


def pieces(value: bytes) -> Iterator[str]:
    """Yield `value` in pieces, each in base64."""
    for start in range(0, len(value), PIECE_BYTES):
        yield b64encode(value[start : start + PIECE_BYTES]).decode("ascii")


def join(texts: Iterator[str]) -> bytes:
    """Return the value that was taken to `pieces`; ValueError where one is no base64."""
    return b"".join(b64decode(text, validate=True) for text in texts)


def request_lines(request: Request, replacement: bytes = b"") -> Iterator[str]:
    """Yield the lines of standard input that say `request`."""
    yield request.line()
    yield from pieces(replacement)
    yield ""


def read_request(lines: Iterator[str]) -> tuple[Request, bytes]:
    """Return the request and its replacement, read up to the empty line; ValueError where they do not fit."""
    request = Request.model_validate_json(next(lines, ""))
    return request, join(line.strip() for line in iter(lambda: next(lines, "").strip(), ""))
