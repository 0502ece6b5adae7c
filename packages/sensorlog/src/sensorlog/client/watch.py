"""Readings as they are stored: one stream after the other, each going on where the one before ended."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import grpc

from sensorlog.client.calls import Calls
from sensorlog.client.errors import CallError
from sensorlog.client.rows import Reading, reading_of
from sensorlog.rpc import logger_pb2 as pb

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds between the end of a stream and the next one; each pause is twice the one before."""

PATIENCE = 600.0
"""How long nobody may answer, in seconds, before a watch gives up."""

# A server that stops may cancel what came just before it said so.
TRIED_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)

OnResumed = Callable[[CallError], None]
"""Hears why a stream had ended, before the next one."""


class MissedReason(StrEnum):
    """Why a watch does not get readings."""

    UNKNOWN = "unknown"
    SLOW_READER = "slow reader"
    TOKEN_EXPIRED = "token expired"  # noqa: S105 -- says what happened to one
    DATABASE_CHANGED = "database changed"
    UNREADABLE = "unreadable"


_REASONS = {
    pb.Missed.REASON_SLOW_READER: MissedReason.SLOW_READER,
    pb.Missed.REASON_TOKEN_EXPIRED: MissedReason.TOKEN_EXPIRED,
    pb.Missed.REASON_DATABASE_CHANGED: MissedReason.DATABASE_CHANGED,
    pb.Missed.REASON_UNREADABLE: MissedReason.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class Missed:
    """`count` readings with start <= ts < end that the watch does not get; each is None where it is not known.

    `Client.readings` or `Client.export` of that range have them.
    """

    reason: MissedReason
    start: int | None
    end: int | None
    count: int | None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What came at once; neither readings nor anything missed where it only says that the watch is alive.

    A watch with `resume_token` gets what follows: who stores it together with the readings has each of them once.
    `staleness` is how old at most the data were that this was found in, in seconds: 0 from a primary, None where the
    service does not say it.
    """

    readings: tuple[Reading, ...]
    missed: tuple[Missed, ...]
    resume_token: str
    staleness: float | None = None


@dataclass
class Watch:
    """Readings of some sensors, or of all where `sensor_ids` is empty, as they are stored.

    Iterating yields readings, each once, for as long as it goes on; `events` yields also what was missed, and tokens.
    Where the service goes away, the watch goes on with the last token, without end unless nobody answers for
    `patience` seconds; then, and for whatever trying again does not help (such as data that are older than the client
    accepts), it raises a CallError. `resume_token` is that of the last event yielded.
    """

    sensor_ids: tuple[int, ...]
    resume_token: str
    patience: float
    on_resumed: OnResumed | None
    _calls: Calls = field(repr=False)

    def __iter__(self) -> Iterator[Reading]:
        for event in self.events():
            yield from event.readings

    def events(self) -> Generator[WatchEvent]:
        """Yield what comes, at least one event every ten seconds while the service is there."""
        failures, silent_since = 0, time.monotonic()
        while True:
            try:
                for event in self._stream():
                    failures, silent_since = 0, time.monotonic()
                    self.resume_token = event.resume_token
                    yield event
                    silent_since = time.monotonic()  # the caller's own time does not count
            except CallError as e:
                pause = min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE)
                if e.code not in TRIED_AGAIN or time.monotonic() + pause > silent_since + self.patience:
                    raise
                failures += 1
                if self.on_resumed is not None:
                    self.on_resumed(e)
                time.sleep(pause)

    def _stream(self) -> Iterator[WatchEvent]:
        """Yield the events of one stream, each as soon as it is whole: what has no token yet would come again."""
        request = pb.WatchSensorDataReq(sensor_ids=self.sensor_ids, resume_token=self.resume_token)
        readings: list[Reading] = []
        missed: list[Missed] = []
        for message in self._calls.stream(self._calls.stub.WatchSensorData, request, None):
            readings += map(reading_of, message.results)
            if message.HasField("missed"):
                missed.append(_missed_of(message.missed))
            if message.resume_token:
                staleness = message.staleness_ms / 1000 if message.HasField("staleness_ms") else None
                yield WatchEvent(tuple(readings), tuple(missed), message.resume_token, staleness)
                readings, missed = [], []


def _missed_of(message: pb.Missed) -> Missed:
    return Missed(
        reason=_REASONS.get(message.reason, MissedReason.UNKNOWN),
        start=message.start_ts if message.HasField("start_ts") else None,
        end=message.end_ts if message.HasField("end_ts") else None,
        count=message.count if message.HasField("count") else None,
    )
