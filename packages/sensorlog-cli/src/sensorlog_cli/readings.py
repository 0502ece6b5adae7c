"""Readings as people hand them in: JSON of three shapes, checked field by field before anything is sent.

The rules are those by which ingest decides between a row and a dead letter, so that a mistake shows here, with its
place, rather than later in a table.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sensorlog.measurements import Measurement
from sensorlog.produce import Record
from sensorlog.timestamps import TimestampUnit, from_datetime
from sensorlog_cli.errors import UsageError

MAX_SENSOR_ID = 2**63 - 1
_AHEAD = timedelta(days=1)
"""How far in the future a `ts` is believed, as the pipeline's default accepted window has it."""

BATCH_READINGS = 500
BATCH_BYTES = 256 * 1024
"""A message closes at the first of the two; brokers refuse messages above 1 MB by default."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A reading and where it stands in the input, like `line 3` or `reading 3`."""

    place: str
    reading: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """One Kafka message of readings, from `first` to `last` in the input's words; `count` is how many.

    A message that holds no reading, like the announcement of a sensor, counts 0.
    """

    record: Record
    first: str
    last: str
    count: int

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a reading must be like. `measurements` is None where no resource says which are declared."""

    unit: TimestampUnit = "s"
    measurements: Sequence[Measurement] | None = None
    allow_unknown: bool = False

    def check(self, placed: Placed) -> None:
        """Raise UsageError naming the place, the field and what is accepted, unless the reading fits."""
        for problem in self.problems(placed.reading):
            raise UsageError(f"{placed.place}: {problem}")

    def problems(self, reading: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with `reading`, each with the field's name."""
        yield from self._timestamp_problems(reading.get("ts"))
        sensor: Any = reading.get("sensor_id")
        if not _is_integer(sensor) or not -MAX_SENSOR_ID - 1 <= sensor <= MAX_SENSOR_ID:
            yield f"sensor_id: must be an integer of 64 bits, not {_shown(sensor)}"
        declared = None if self.measurements is None else {m.name: m for m in self.measurements}
        for name in reading.keys() - {"ts", "sensor_id"}:
            measurement = Measurement.model_construct(name=name) if declared is None else declared.get(name)
            if measurement is not None:
                yield from _value_problems(measurement, reading[name])
            elif declared is not None and not self.allow_unknown:
                yield f"{name}: not a measurement of this pipeline ({', '.join(declared)}); --allow-unknown sends it"

    def _timestamp_problems(self, ts: Any) -> Iterator[str]:
        latest = from_datetime(datetime.now(UTC) + _AHEAD, self.unit)
        if not _is_integer(ts):
            yield f"ts: must be an integer in {self.unit}, not {_shown(ts)}"
        elif not 0 <= ts <= latest:
            yield f"ts: must be in 0..{latest} ({self.unit} since 1970, at most a day ahead), not {ts}: a wrong unit?"


def _value_problems(measurement: Measurement, value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        yield f"{measurement.name}: must be a finite number or null, not {_shown(value)}"
    elif measurement.min is not None and value < measurement.min:
        yield f"{measurement.name}: must be at least {measurement.min:g}, not {value:g}"
    elif measurement.max is not None and value > measurement.max:
        yield f"{measurement.name}: must be at most {measurement.max:g}, not {value:g}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a double
        return False


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 -- a line must stay one line


def parse(text: str, source: str) -> list[Placed]:
    """Return the readings in `text`: a JSON array, one object, or JSON lines of either.

    Raises UsageError with line and column where it is not JSON, and when it holds no reading.
    """
    document, error = _load(text)
    if error is None:
        placed = _spread(document, "reading")
    elif error.msg == "Extra data":  # a second document follows: JSON lines
        placed = list(_parse_lines(text, source))
    else:
        raise _not_json(source, error.lineno, error)
    if not placed:
        raise UsageError(f"{source}: no readings in it")
    return placed


def _load(text: str) -> tuple[Any, json.JSONDecodeError | None]:
    try:
        return json.loads(text), None
    except json.JSONDecodeError as e:
        return None, e
    except (ValueError, RecursionError) as e:  # integers of thousands of digits, brackets of thousands of levels
        raise UsageError(f"not JSON that can be read: {e}") from e


def _parse_lines(text: str, source: str) -> Iterator[Placed]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            document, error = _load(line)
            if error is not None:
                raise _not_json(source, number, error)
            several = isinstance(document, list)
            yield from _spread(document, f"line {number}, reading" if several else f"line {number}", several=several)


def _spread(document: Any, place: str, *, several: bool = True) -> list[Placed]:
    items = document if isinstance(document, list) else [document]
    placed = [Placed(f"{place} {n}" if several else place, item) for n, item in enumerate(items, start=1)]
    for each in placed:
        if not isinstance(each.reading, dict):
            raise UsageError(
                f'{each.place}: must be an object like {{"ts": 1646409307, ...}}, not {_shown(each.reading)}'
            )
    return placed


def _not_json(source: str, line: int, error: json.JSONDecodeError) -> UsageError:
    return UsageError(f"{source}, line {line}, column {error.colno}: not JSON: {error.msg}")


def batches(placed: Iterable[Placed], topic: str) -> Iterator[Batch]:
    """Yield `placed` as messages to `topic`, each a JSON array in the given order."""
    waiting: list[Placed] = []
    texts: list[str] = []
    size = 0
    for each in placed:
        text = json.dumps(each.reading, separators=(",", ":"))
        if waiting and (len(waiting) >= BATCH_READINGS or size + len(text) > BATCH_BYTES):
            yield _batch(waiting, texts, topic)
            waiting, texts, size = [], [], 0
        waiting.append(each)
        texts.append(text)
        size += len(text)
    if waiting:
        yield _batch(waiting, texts, topic)


def _batch(placed: Sequence[Placed], texts: Sequence[str], topic: str) -> Batch:
    record = Record(topic, f"[{','.join(texts)}]")
    return Batch(record, placed[0].place, placed[-1].place, len(placed))
