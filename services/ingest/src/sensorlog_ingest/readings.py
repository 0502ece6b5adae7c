"""Readings as columns of numpy: the form in which they are checked, sorted and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Selection = slice | NDArray[np.bool_] | NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Readings:
    """`n` readings of `k` measurements, and where each one came from.

    time_us    int64[n], microseconds since 1970-01-01 UTC
    sensor_id  int64[n]
    values     float64[k, n] in declared order; NaN stands for NULL
    message    int32[n], index of the message among those decoded together
    position   int32[n], index of the reading inside its message
    """

    time_us: NDArray[np.int64]
    sensor_id: NDArray[np.int64]
    values: NDArray[np.float64]
    message: NDArray[np.int32]
    position: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.time_us)

    def take(self, selection: Selection) -> "Readings":
        """Return the selected readings: a slice, a mask or indices."""
        return Readings(
            self.time_us[selection],
            self.sensor_id[selection],
            self.values[:, selection],
            self.message[selection],
            self.position[selection],
        )

    def sorted(self) -> "Readings":
        """Return them by (sensor_id, time desc), the order of the table's index, which then is built page by page."""
        return self.take(np.lexsort((-self.time_us, self.sensor_id)))

    def moved(self, messages: int) -> "Readings":
        """Return them with `messages` more messages before their own."""
        return Readings(self.time_us, self.sensor_id, self.values, self.message + np.int32(messages), self.position)


def concatenate(parts: Sequence[Readings]) -> Readings:
    """Return all readings of `parts`, of which there is at least one, in order."""
    if len(parts) == 1:
        return parts[0]
    return Readings(
        np.concatenate([part.time_us for part in parts]),
        np.concatenate([part.sensor_id for part in parts]),
        np.concatenate([part.values for part in parts], axis=1),
        np.concatenate([part.message for part in parts]),
        np.concatenate([part.position for part in parts]),
    )


def no_readings(measurements: int) -> Readings:
    """Return zero readings of `measurements` columns."""
    return Readings(
        np.empty(0, np.int64),
        np.empty(0, np.int64),
        np.empty((measurements, 0), np.float64),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
    )
