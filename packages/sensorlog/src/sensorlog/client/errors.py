"""What a call can fail with, and the one boundary where gRPC's errors become these.

SensorLogError
├── InvalidRequestError     INVALID_ARGUMENT     `field` of the request is not acceptable
├── UnavailableError        UNAVAILABLE          service or database is away; calls were retried already
├── DeadlineError           DEADLINE_EXCEEDED    narrow the range or allow more time
├── LimitError              RESOURCE_EXHAUSTED   above a limit of the service; `retry_after` where it says when
├── StaleError              FAILED_PRECONDITION  the replica's data may be older than `max_staleness`
├── AccessError             UNAUTHENTICATED, PERMISSION_DENIED
├── UnsupportedError        UNIMPLEMENTED        not a SensorLog query service, or an older one
├── ServiceError            anything else        a fault of the service; the message has what its log knows it by
├── ExportInterruptedError  an export ended in the middle; what it gave until then is complete and can be continued
└── MissingExtraError       a library is not installed (also an ImportError)
"""

import grpc

STATUS_DETAILS = "grpc-status-details-bin"
STALENESS = "staleness-ms"
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata of https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback"""


class SensorLogError(Exception):
    """A call failed. `code` is its gRPC status, None where no call was made."""

    code: grpc.StatusCode | None = None


class CallError(SensorLogError):
    """The service, or gRPC on the way to it, ended a call with `code`."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code: grpc.StatusCode = code
        self.details = details


class InvalidRequestError(CallError):
    """A field of the request is not acceptable. `field` is its name in the contract, empty where none was sent."""

    def __init__(self, code: grpc.StatusCode, details: str, field: str = "") -> None:
        super().__init__(code, details)
        self.field = field


class UnavailableError(CallError):
    """The service or its database is away; trying again later helps."""


class DeadlineError(CallError):
    """There was not enough time: the call's timeout, or the service's own limit."""


class LimitError(CallError):
    """A limit of the service was reached. `retry_after` is when to try again, in seconds, where the service said it."""

    def __init__(self, code: grpc.StatusCode, details: str, retry_after: float | None = None) -> None:
        super().__init__(code, details)
        self.retry_after = retry_after


class StaleError(CallError):
    """The service reads from a replica that is too far behind. `staleness` is how old at most, in seconds."""

    def __init__(self, code: grpc.StatusCode, details: str, staleness: float | None = None) -> None:
        super().__init__(code, details)
        self.staleness = staleness


class AccessError(CallError):
    """The service does not know the caller, or does not allow it the call."""


class UnsupportedError(CallError):
    """What answers does not have this method: no SensorLog query service, or an older one."""


class ServiceError(CallError):
    """A fault of the service."""


class ExportInterruptedError(SensorLogError):
    """An export ended in the middle; `__cause__` is why.

    Every reading up to and including (`last_ts`, `last_sensor_id`) was given, and none of a later moment. An export
    with `start=resume_from` gives the rest; it is another snapshot, so a reading that arrived meanwhile with an
    earlier time is in neither.
    """

    def __init__(self, cause: CallError, last_ts: int, last_sensor_id: int, rows: int) -> None:
        super().__init__(
            f"the export ended after {rows} readings, complete up to ts {last_ts}, sensor {last_sensor_id}: {cause}; "
            f"continue with start {last_ts + 1}"
        )
        self.code = cause.code
        self.last_ts = last_ts
        self.last_sensor_id = last_sensor_id
        self.rows = rows

    @property
    def resume_from(self) -> int:
        """The `start` of an export that gives the rest, in the pipeline's unit."""
        return self.last_ts + 1


class MissingExtraError(SensorLogError, ImportError):
    """A library is not installed that an extra of sensorlog brings."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; it comes with the extra: pip install 'sensorlog[{extra}]'")


_KINDS: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
}


def mapped(error: grpc.RpcError) -> CallError:
    """Return what a call raised as one of this module's errors."""
    # Every RpcError that a call raises is a grpc.Call too, but its type does not say so.
    code, details = error.code(), " ".join((error.details() or "no reason given").split())
    trailing = {each.key: each.value for each in error.trailing_metadata() or ()}
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequestError(code, details, _field(trailing.get(STATUS_DETAILS, b"")))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitError(code, details, seconds_of(trailing.get(PUSHBACK)))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return StaleError(code, details, seconds_of(trailing.get(STALENESS)))
    return _KINDS.get(code, ServiceError)(code, details)


def _field(serialised: str | bytes) -> str:
    """Return the first field that the google.rpc.Status of a refused request names."""
    from google.rpc.error_details_pb2 import BadRequest  # noqa: PLC0415 -- of the extra, and only for a refusal
    from google.rpc.status_pb2 import Status  # noqa: PLC0415

    raw = serialised if isinstance(serialised, bytes) else serialised.encode()
    for detail in Status.FromString(raw).details:
        refused = BadRequest()
        if detail.Unpack(refused) and refused.field_violations:
            return str(refused.field_violations[0].field)
    return ""


def seconds_of(milliseconds_text: str | bytes | None) -> float | None:
    """Return a value of trailing metadata in seconds; None where there is none.

    None also for a negative one: as a pushback it says not to retry.
    """
    try:
        milliseconds = int(milliseconds_text or -1)
    except ValueError:
        return None
    return milliseconds / 1000 if milliseconds >= 0 else None
