"""Why a reading was not stored: docs/dead-letters.md is the table of the reasons."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MAX_SHOWN = 80
"""How many characters of an offending value a detail quotes."""


class Reason(StrEnum):
    """Why a reading or a whole message was not stored. The codes are stable: people filter on them."""

    EMPTY_VALUE = "empty_value"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_PROTOBUF = "not_protobuf"
    WRONG_TYPE = "wrong_type"
    MISSING_TS = "missing_ts"
    MISSING_SENSOR_ID = "missing_sensor_id"
    MISSING_ID = "missing_id"
    INTEGER_OVERFLOW = "integer_overflow"
    NOT_FINITE = "not_finite"
    TS_OUT_OF_WINDOW = "ts_out_of_window"
    OUT_OF_RANGE = "out_of_range"
    DATABASE_REJECTED = "database_rejected"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One reading that was not stored, or the whole message where `position` is None."""

    reason: Reason
    detail: str
    position: int | None = None

    def __str__(self) -> str:
        where = "" if self.position is None else f"reading {self.position}: "
        return f"{where}{self.reason}: {self.detail}"


Rejections = dict[int, list[Rejection]]
"""What was rejected of messages that were decoded together, by the message's index."""


def by_position(rejections: Iterable[Rejection]) -> list[Rejection]:
    """Return a message's rejections in the order of its readings; what is about the whole message comes first."""
    return sorted(rejections, key=lambda rejection: -1 if rejection.position is None else rejection.position)


def storable(text: str) -> str:
    """Return `text` without what PostgreSQL's text cannot hold: NUL becomes U+FFFD, a lone surrogate `?`."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def shown(value: object) -> str:
    """Return `value` as a detail quotes it: as JSON writes it, and cut off when long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
