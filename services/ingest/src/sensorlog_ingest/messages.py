"""What the rest of the service needs to know of a Kafka message."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Header = tuple[str, str | bytes | None]

CONTENT_TYPE = "content-type"
PROTOBUF = b"application/x-protobuf"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Message(Protocol):
    """A consumed message, as confluent_kafka.Message shows it."""

    def topic(self) -> str | None:
        """Return the topic."""

    def partition(self) -> int | None:
        """Return the partition."""

    def offset(self) -> int | None:
        """Return the offset."""

    def key(self) -> bytes | None:
        """Return the key."""

    def value(self) -> bytes | None:
        """Return the value; None for a tombstone."""

    def headers(self) -> Sequence[Header] | None:
        """Return the headers; UnicodeDecodeError where a name is not UTF-8."""


def headers_of(message: Message) -> Sequence[Header]:
    """Return the headers; none where librdkafka's binding cannot represent their names."""
    try:
        return message.headers() or ()
    except UnicodeDecodeError:
        return ()


def any_protobuf(messages: Sequence[Message]) -> bool:
    """Return whether any of the messages is protobuf; quick where most messages have no headers at all."""
    try:
        with_headers: Sequence[Message] = [message for message in messages if message.headers()]
    except UnicodeDecodeError:
        with_headers = messages
    return any(map(is_protobuf, with_headers))


def is_protobuf(message: Message) -> bool:
    """Return whether the header content-type says that the value is protobuf."""
    for name, value in headers_of(message):
        if name.lower() == CONTENT_TYPE:
            encoded = value.encode() if isinstance(value, str) else value or b""
            return encoded.partition(b";")[0].strip().lower() == PROTOBUF
    return False
