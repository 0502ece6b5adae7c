"""What is kept of a message that could not be stored: in the message's own form, to be sent again."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensorlog_ingest import elements, protobuf
from sensorlog_ingest.messages import Message, headers_of, is_protobuf
from sensorlog_ingest.rejections import Reason, Rejection, by_position, storable

MAX_DETAILS = 20
"""How many rejected readings of one message are described one by one."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of dead_letters; `headers` is a JSON document."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: str | None
    reason: Reason
    detail: str


def dead_letter(message: Message, rejections: Sequence[Rejection]) -> DeadLetter:
    """Return the dead letter of a message of which something was rejected, for these reasons (at least one).

    Its reason is that of the first rejected reading; the detail names each. Its value holds only what was rejected.
    """
    rejections = by_position(rejections)
    return DeadLetter(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=rejected_part(message, rejections),
        headers=headers_as_json(message),
        reason=rejections[0].reason,
        detail=_details(rejections),
    )


def dead_letter_again(message: Message, rejections: Sequence[Rejection]) -> DeadLetter:
    """Return what a message that is a dead letter's becomes when it is rejected again, for these reasons.

    As `dead_letter`, but the detail counts the readings of the value that is kept now: the one they were counted in
    is gone.
    """
    ordered = by_position(rejections)
    of_readings = [rejection for rejection in ordered if rejection.position is not None]
    of_message = ordered[: len(ordered) - len(of_readings)]
    counted = [*of_message, *(replace(rejection, position=number) for number, rejection in enumerate(of_readings))]
    return replace(dead_letter(message, rejections), detail=_details(counted))


def rejected_part(message: Message, rejections: Sequence[Rejection]) -> bytes | None:
    """Return what of a message's value was rejected, in the message's own format, so that it can be sent again.

    That is the whole value where the message was rejected as a whole or is a single reading.
    """
    value = message.value()
    positions = [rejection.position for rejection in rejections if rejection.position is not None]
    if value is None or len(positions) < len(rejections):
        return value
    if is_protobuf(message):
        return protobuf.keep(value, positions)
    parts = elements.split(value)  # the message was taken apart before, or decoded as a whole
    if len(parts) == len(positions):
        return value
    return b"[%b]" % b",".join(parts[position] for position in sorted(positions))


def _details(rejections: Sequence[Rejection]) -> str:
    lines = [str(rejection) for rejection in rejections[:MAX_DETAILS]]
    if len(rejections) > MAX_DETAILS:
        lines.append(f"and {len(rejections) - MAX_DETAILS} more")
    return storable("\n".join(lines))


def headers_as_json(message: Message) -> str | None:
    """Return the headers as a JSON array in their order, None where there are none.

    An element is `{"key": .., "value": ..}`; bytes that jsonb cannot hold as text (not UTF-8, or with NUL) stand
    under "base64" instead of "value".
    """
    headers = headers_of(message)
    if not headers:
        return None
    return json.dumps([_header(name, value) for name, value in headers])


def _header(name: str, value: str | bytes | None) -> dict[str, Any]:
    encoded = value.encode() if isinstance(value, str) else value
    header: dict[str, Any] = {"key": storable(name)}
    try:
        text = None if encoded is None else encoded.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if encoded is not None and text is not None and "\0" in text:
        return header | {"base64": base64.b64encode(encoded).decode("ascii")}
    return header | {"value": text}
