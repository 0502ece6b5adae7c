"""Kafka messages without a broker."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Header = tuple[str, str | bytes | None]

PROTOBUF: tuple[Header, ...] = (("content-type", b"application/x-protobuf"),)


@dataclass(frozen=True)
class FakeMessage:
    """What confluent_kafka.Message shows of a consumed message."""

    the_value: bytes | None
    the_topic: str = "logger.sensor.ts"
    the_partition: int = 0
    the_offset: int = 0
    the_key: bytes | None = None
    the_headers: Sequence[Header] = field(default=())

    def topic(self) -> str:
        """Return the topic."""
        return self.the_topic

    def partition(self) -> int:
        """Return the partition."""
        return self.the_partition

    def offset(self) -> int:
        """Return the offset."""
        return self.the_offset

    def key(self) -> bytes | None:
        """Return the key."""
        return self.the_key

    def value(self) -> bytes | None:
        """Return the value."""
        return self.the_value

    def headers(self) -> Sequence[Header] | None:
        """Return the headers, None where there are none, as the binding does."""
        return self.the_headers or None


def json_message(document: Any, **where: Any) -> FakeMessage:
    """Return a message that holds a JSON document."""
    return FakeMessage(json.dumps(document).encode(), **where)
