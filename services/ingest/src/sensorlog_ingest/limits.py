"""Which readings are believed: the accepted window of `ts`, and each measurement's min and max."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sensorlog.measurements import Measurement
from sensorlog.timestamps import PER_SECOND, TimestampUnit
from sensorlog_ingest.readings import Readings
from sensorlog_ingest.rejections import Reason, Rejection, Rejections

MICROSECONDS = 1_000_000


class Limits:
    """The limits of one pipeline, all of them inclusive."""

    def __init__(self, measurements: tuple[Measurement, ...], unit: TimestampUnit, ahead_seconds: int) -> None:
        self._bounds = [
            (m.name, -np.inf if m.min is None else m.min, np.inf if m.max is None else m.max) for m in measurements
        ]
        self._unit: TimestampUnit = unit
        self._ahead_seconds = ahead_seconds

    def apply(self, readings: Readings, now: float, rejections: Rejections) -> Readings:
        """Return the readings within the limits and add the others to `rejections`.

        `time_us` holds `ts` as it was sent, in the pipeline's unit, and is in microseconds afterwards: a `ts` far
        outside the window would overflow if it were converted first. `now` is in seconds since 1970.
        """
        latest = int(now + self._ahead_seconds) * PER_SECOND[self._unit]
        bad = self._outside(readings, latest)
        if bad.any():
            for row in np.flatnonzero(bad).tolist():
                rejection = self._describe(readings, row, latest)
                rejections.setdefault(int(readings.message[row]), []).append(rejection)
            readings = readings.take(~bad)
        return replace(readings, time_us=_microseconds(readings.time_us, self._unit))

    def _outside(self, readings: Readings, latest: int) -> NDArray[np.bool_]:
        bad = (readings.time_us < 0) | (readings.time_us > latest)
        for values, (_, low, high) in zip(readings.values, self._bounds, strict=True):
            bad |= (values < low) | (values > high)  # NaN, which is NULL, is neither
        return bad

    def _describe(self, readings: Readings, row: int, latest: int) -> Rejection:
        ts, position = int(readings.time_us[row]), int(readings.position[row])
        if not 0 <= ts <= latest:
            detail = f"ts {ts} is not within 0..{latest} (timestampUnit {self._unit}); is it in another unit?"
            return Rejection(Reason.TS_OUT_OF_WINDOW, detail, position)
        outside = (
            f"{name} {value} is not within {low}..{high}"
            for value, (name, low, high) in zip(readings.values[:, row].tolist(), self._bounds, strict=True)
            if value < low or value > high
        )
        return Rejection(Reason.OUT_OF_RANGE, next(outside), position)


def _microseconds(ts: NDArray[np.int64], unit: TimestampUnit) -> NDArray[np.int64]:
    per_second = PER_SECOND[unit]
    return ts * (MICROSECONDS // per_second) if per_second <= MICROSECONDS else ts // (per_second // MICROSECONDS)
