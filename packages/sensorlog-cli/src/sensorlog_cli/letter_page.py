"""How dead letters look: to people as tables and a page, to programs as JSON."""

import contextlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError
from rich.console import Group, RenderableType
from rich.text import Text

from sensorlog.client.rows import reading_of
from sensorlog.letters import Envelope, Summary
from sensorlog.rpc.logger_pb2 import SensorDataList
from sensorlog_cli.client import reading_row
from sensorlog_cli.letters import Letter, Report
from sensorlog_cli.output import Column, plain_table, table_of

_MAX_DETAIL = 100
"""Characters of a detail in a list; `show` has all."""

_BYTES_A_LINE = 16

COLUMNS = (
    Column("id", lambda row: str(row["id"])),
    Column("received (UTC)", lambda row: _second(row["received_at"])),
    Column("reason", lambda row: str(row["reason"])),
    Column("bytes", lambda row: "-" if row["value_bytes"] is None else str(row["value_bytes"]), right=True),
    Column("detail", lambda row: _first_line(row["detail"])),
)


def row(envelope: Envelope) -> dict[str, Any]:
    """Return a letter of a list as its JSON reads."""
    return {
        "id": str(envelope.id),
        "topic": envelope.id.topic,
        "partition": envelope.id.partition,
        "offset": envelope.id.offset,
        "received_at": _iso(envelope.received_at),
        "reason": envelope.reason,
        "detail": envelope.detail,
        "value_bytes": envelope.value_bytes,
    }


def list_document(summary: Summary, envelopes: Sequence[Envelope]) -> dict[str, Any]:
    """Return a list as JSON: how many of each reason there are in all, and the newest."""
    reasons = [
        {"reason": r.reason, "count": r.count, "value_bytes": r.value_bytes, "newest": _iso(r.newest)}
        for r in summary.reasons
    ]
    return {"count": summary.count, "reasons": reasons, "letters": [row(each) for each in envelopes]}


def list_page(summary: Summary, envelopes: Sequence[Envelope]) -> RenderableType:
    """Return a list for people: the newest letters, then how many of each reason there are in all."""
    letters = table_of([row(each) for each in envelopes], COLUMNS)
    return Group(letters, Text(), reasons_table(summary))


def reasons_table(summary: Summary) -> RenderableType:
    """Return how many letters of each reason there are."""
    table = plain_table(None, ("reason", False), ("dead letters", True), ("newest (UTC)", False))
    for each in summary.reasons:
        table.add_row(Text(each.reason), str(each.count), _second(_iso(each.newest)))
    if len(summary.reasons) > 1:
        table.add_row(Text("in all"), str(summary.count), "")
    return table


# One letter


def document(letter: Letter) -> dict[str, Any]:
    """Return all of a letter as JSON; bytes that are no text stand under a name that ends with `_base64`."""
    return {
        **row(letter.envelope),
        **_named("key", letter.key),
        "headers": letter.contents.headers,
        **_named("value", letter.value),
    }


def _named(name: str, value: bytes | None) -> dict[str, Any]:
    text = None if value is None else _text(value)
    if value is not None and text is None:
        return {f"{name}_base64": b64encode(value).decode("ascii")}
    return {name: text}


def page(letter: Letter) -> RenderableType:
    """Return all of a letter for people."""
    fields = plain_table(None, ("", False), ("", False))
    fields.show_header = False
    for name, text in _fields(letter):
        fields.add_row(Text(name, style="bold"), Text(text))
    return Group(fields, Text(), *map(Text, _value_lines(letter)))


def _fields(letter: Letter) -> Iterator[tuple[str, str]]:
    envelope = letter.envelope
    yield "dead letter", str(envelope.id)
    yield "received", _iso(envelope.received_at)
    yield "reason", envelope.reason
    yield "detail", envelope.detail
    yield "key", "none" if letter.key is None else shown(letter.key)
    headers = letter.contents.headers or ()
    for number, header in enumerate(headers):
        yield "headers" if number == 0 else "", f"{header['key']}: {_header_value(header)}"
    if not headers:
        yield "headers", "none"
    yield "value", "none" if letter.value is None else f"{len(letter.value)} bytes"


def _header_value(header: Mapping[str, Any]) -> str:
    return f"base64 {header['base64']}" if "base64" in header else str(header["value"])


def shown(value: bytes) -> str:
    """Return bytes for people on one line: text as it is, anything else in hexadecimal."""
    text = _text(value)
    return value.hex(" ") if text is None or not text.isprintable() else text


def _value_lines(letter: Letter) -> Iterator[str]:
    value = letter.value or b""
    text = _text(value)
    if _is_protobuf(letter.contents.headers or ()):
        yield from _protobuf_lines(value)
    elif text is None:
        yield from hex_dump(value)
    else:
        yield _pretty(text)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _pretty(text: str) -> str:
    """Return a JSON document indented, with each token as it was sent; any other text as it is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return "".join(_indented(_TOKEN.findall(text)))


def _indented(parts: Iterable[str]) -> Iterator[str]:
    depth = 0
    for part in parts:
        if part in "}]":
            depth -= 1
            yield "\n" + "  " * depth
        yield part
        if part in "{[":
            depth += 1
        if part in "{[,":
            yield "\n" + "  " * depth
        if part == ":":
            yield " "


def _is_protobuf(headers: Iterable[Mapping[str, Any]]) -> bool:
    types = (str(header.get("value")) for header in headers if header["key"].lower() == "content-type")
    return next(types, "").partition(";")[0].strip().lower() == "application/x-protobuf"


def _protobuf_lines(value: bytes) -> Iterator[str]:
    """Yield the readings where it is a SensorDataList, and the bytes in any case."""
    with contextlib.suppress(DecodeError):
        for reading in SensorDataList.FromString(value).items:
            yield json.dumps(reading_row(reading_of(reading)), ensure_ascii=False)
    yield from hex_dump(value)


def hex_dump(value: bytes) -> Iterator[str]:
    """Yield lines of 16 bytes as `hexdump -C` writes them: offset, hexadecimal, and what of it is ASCII."""
    for start in range(0, len(value), _BYTES_A_LINE):
        line = value[start : start + _BYTES_A_LINE]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)  # noqa: PLR2004 -- ASCII's own
        yield f"{start:08x}  {line.hex(' '):<{3 * _BYTES_A_LINE}} |{printable}|"


# What a replay or a discard has done


def report_document(report: Report, *, dry_run: bool) -> dict[str, Any]:
    """Return what was done as JSON; `rejected` are the letters that went back."""
    done = report.progress.model_dump(include={"letters", "readings", "sensors", "superseded"})
    rejected = [{"id": str(each.id), "reason": each.reason, "detail": each.detail} for each in report.returned]
    missing = [str(each) for each in report.progress.missing]
    return {"dry_run": dry_run, **done, "rejected": rejected, "missing": missing}


def replay_table(report: Report, *, dry_run: bool) -> RenderableType:
    """Return what a replay has done: what landed, and what is still rejected by reason."""
    done = report.progress
    table = plain_table(None, ("would be replayed" if dry_run else "replayed", False), ("", True))
    table.add_row("dead letters", str(done.letters))
    table.add_row("readings stored", str(done.readings))
    table.add_row("sensors stored", str(done.sensors))
    if done.superseded:
        table.add_row("sensors left as they are, newer", str(done.superseded))
    for reason, count in Counter(each.reason for each in report.returned).most_common():
        table.add_row(Text(f"still rejected: {reason}"), str(count))
    return table


# Texts


def _text(value: bytes) -> str | None:
    """Return bytes as text; None where they are not UTF-8, or hold what no text does."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\t\r\n" for character in text) else None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _second(iso: str) -> str:
    return f"{iso[:19]}Z"


def _first_line(detail: str) -> str:
    line, *more = detail.splitlines() or [""]
    cut = line if len(line) <= _MAX_DETAIL else f"{line[: _MAX_DETAIL - 3]}..."
    return f"{cut} (+{len(more)})" if more else cut
