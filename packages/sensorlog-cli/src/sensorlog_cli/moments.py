"""Which time a person means, and how a `ts` is shown to one."""

from datetime import UTC, datetime

from sensorlog import durations
from sensorlog.timestamps import TimestampUnit, from_datetime, to_datetime
from sensorlog_cli.errors import UsageError
from sensorlog_cli.options import RangeOptions


def parse(text: str, unit: TimestampUnit, option: str) -> int:
    """Return the `ts` in `unit` that `text` says: an integer as it is, or an ISO 8601 time (UTC without an offset).

    Raises UsageError naming `option`.
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise UsageError(
            f"{option}: {text!r} is no time: write ISO 8601 like 2026-03-04T15:55:07Z, or a ts in {unit}"
        ) from e
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC), unit)


def bounds(options: RangeOptions, unit: TimestampUnit, now: datetime) -> tuple[int | None, int | None]:
    """Return the first `ts` that is meant and the first that is not any more; None where there is no bound."""
    if options.since is not None and options.start is not None:
        raise UsageError("--since and --start both say where to begin: give one of them")
    start = None if options.start is None else parse(options.start, unit, "--start")
    if options.since is not None:
        start = from_datetime(now - durations.parse(options.since), unit)
    end = None if options.end is None else parse(options.end, unit, "--end")
    if start is not None and end is not None and start >= end:
        raise UsageError("--end must be later than the start: nothing can lie between")
    return start, end


def show(ts: int, unit: TimestampUnit) -> str:
    """Return `ts` as ISO 8601 in UTC; as the bare integer where no calendar reaches it."""
    try:
        return to_datetime(ts, unit).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return str(ts)
