"""Canaries: marked messages by which the operator measures that data flows, from the topic to an answer.

A canary is no reading: it has a table of its own, so that it can be in no answer about readings. It is told by its
header. Only messages that do not decode are looked at for it, so that readings do not pay for canaries.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sensorlog.canary import HEADER, MAX_TOKEN_LENGTH
from sensorlog_ingest.messages import Message, headers_of
from sensorlog_ingest.rejections import Rejections


class Canary(NamedTuple):
    """A canary that came by. The token is what tells it from others of its partition."""

    partition: int
    token: str


def take_canaries(messages: Sequence[Message], rejections: Rejections) -> list[Canary]:
    """Return the canaries among the rejected messages, and take their rejections away."""
    found = {index: canary for index in rejections if (canary := _canary(messages[index])) is not None}
    for index in found:
        del rejections[index]
    return list(found.values())


def _canary(message: Message) -> Canary | None:
    for name, value in headers_of(message):
        if name == HEADER and isinstance(value, bytes) and value.isascii() and len(value) <= MAX_TOKEN_LENGTH:
            return Canary(message.partition() or 0, value.decode())
    return None


def latest_of_each(canaries: Sequence[Canary]) -> list[Canary]:
    """Return the last canary of each partition, ordered by partition: one statement must not touch a row twice."""
    return sorted({canary.partition: canary for canary in canaries}.values())
