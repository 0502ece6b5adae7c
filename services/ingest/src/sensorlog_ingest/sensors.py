"""Messages of the topic of sensors: an object, or an array of them."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sensorlog_ingest import elements
from sensorlog_ingest.decode import DECODE_ERRORS, MAX_MESSAGE_BYTES, too_large
from sensorlog_ingest.messages import Message
from sensorlog_ingest.rejections import Reason, Rejection, Rejections
from sensorlog_ingest.schema_types import Sensor


class SensorRow(NamedTuple):
    """A sensor, and where it came from: the index of the message and the position inside it."""

    message: int
    position: int
    sensor: Sensor


class SensorDecoder:
    """Decodes messages of the topic of sensors: an object, or an array of them."""

    def __init__(self) -> None:
        self._one = msgspec.json.Decoder(Sensor)

    def decode(self, messages: Sequence[Message]) -> tuple[list[SensorRow], Rejections]:
        """Return the sensors in order, and what was rejected."""
        sensors: list[SensorRow] = []
        rejections: Rejections = {}
        for index, message in enumerate(messages):
            try:
                parts = elements.split(_value_of(message))
            except elements.UnreadableError as e:
                rejections[index] = [Rejection(Reason.NOT_JSON, str(e))]
                continue
            except _RefusedError as e:
                rejections[index] = [e.rejection]
                continue
            for position, part in enumerate(parts):
                try:
                    sensors.append(SensorRow(index, position, self._sensor(part)))
                except _RefusedError as e:
                    rejections.setdefault(index, []).append(Rejection(e.rejection.reason, e.rejection.detail, position))
        return sensors, rejections

    def _sensor(self, part: bytes) -> Sensor:
        try:
            sensor = self._one.decode(part)
        except DECODE_ERRORS as e:
            raise _RefusedError(*elements.explain_sensor(part, e)) from e
        for name, text in (("type", sensor.type), ("location", sensor.location)):
            if text and "\0" in text:
                raise _RefusedError(Reason.WRONG_TYPE, f"{name} holds NUL, which PostgreSQL cannot store")
        return sensor


class _RefusedError(Exception):
    """A sensor message, or one sensor of it, is refused."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.rejection = Rejection(reason, detail)


def _value_of(message: Message) -> bytes:
    value = message.value()
    if not value:
        raise _RefusedError(Reason.EMPTY_VALUE, "the message has no value")
    if len(value) > MAX_MESSAGE_BYTES:
        raise _RefusedError(Reason.TOO_LARGE, too_large(value).detail)
    return value
