"""What can go wrong for a person at the command line, and the process's exit status for it.

    CliError             1: it was tried and did not work (also: a pipeline is not ready)
    ├── UsageError       2: the arguments or the readings do not fit
    └── UnreachableError 3: what was named does not exist or cannot be reached

Errors of the libraries below (the query client, Kubernetes, Kafka, the network) become one of these in `translate`,
and nowhere else. Every message is one line: what happened, then what to do.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import grpc
from confluent_kafka import KafkaException
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from sensorlog.client import ExportInterruptedError, MissingExtraError, SensorLogError


class ExitStatus(IntEnum):
    """What the process's exit status says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    PENDING = 4
    """Something is to be done, by `plan`."""
    INTERRUPTED = 130


class CliError(Exception):
    """It was tried and did not work; the message says what to do."""

    status = ExitStatus.FAILED


class UsageError(CliError):
    """The arguments or the readings do not fit; the message names which."""

    status = ExitStatus.USAGE


class UnreachableError(CliError):
    """What was named does not exist or cannot be reached."""

    status = ExitStatus.UNREACHABLE


_GRPC: dict[grpc.StatusCode | None, tuple[type[CliError], str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (UsageError, "the query service refuses the request: {}"),
    grpc.StatusCode.UNAVAILABLE: (
        UnreachableError,
        "the query service or its database is away: {}; `sensorlog status` says why",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        UnreachableError,
        "no answer in time: {}; ask for less, or allow more with --timeout",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        UnreachableError,
        "what answers is not a SensorLog query service, or an older one: {}; check --endpoint",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (CliError, "the query service does not know you: {}; show a --token-file"),
    grpc.StatusCode.PERMISSION_DENIED: (CliError, "the query service does not let you read: {}; ask for the right"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (CliError, "above a limit of the query service: {}; ask for less"),
}

_KUBERNETES = {
    0: "the cluster does not answer: {}; check that it runs and that --context names the right one",
    401: "the cluster does not accept these credentials: {}; log in again, or choose another --context",
    403: "not allowed in this cluster: {}; ask for the rights that docs/cli.md lists",
    404: "not found in this cluster: {}; check -n/--namespace and that the sensorlog chart is installed",
}


def translate(error: Exception) -> CliError | None:
    """Return `error` as one of this module's errors; None where it is a bug and nobody's fault outside."""
    if isinstance(error, CliError):
        return error
    for kind, translated in _FOREIGN:
        if isinstance(error, kind):
            return translated(error)
    return None


def _from_query(error: SensorLogError) -> CliError:
    if isinstance(error, MissingExtraError):
        return CliError(_line(error))
    kind, message = _GRPC.get(error.code, (CliError, "the query service failed: {}; its logs say more"))
    if isinstance(error, ExportInterruptedError):
        return kind(_line(error))  # it says itself what to do
    return kind(message.format(_line(error)))


def _from_kubernetes(error: ApiException) -> CliError:
    said = _line(error.reason or "")
    if error.status in _KUBERNETES:
        return UnreachableError(_KUBERNETES[error.status].format(said))
    return CliError(f"the cluster refuses the request: {error.status} {said}")


def _from_config(error: Exception) -> CliError:
    return UnreachableError(
        f"no cluster to talk to: {_line(error)}; set KUBECONFIG or --kubeconfig, or name the query service "
        "with --endpoint HOST:PORT (publish: --bootstrap-servers)"
    )


def _from_kafka(error: Exception) -> CliError:
    return CliError(f"Kafka: {_line(error.args[0])}; check --bootstrap-servers and --kafka-option")


def _from_network(error: Exception) -> CliError:
    return UnreachableError(_KUBERNETES[0].format(_line(error)))


def _line(text: object) -> str:
    return " ".join(str(text).split()).rstrip(".") or "no reason given"


_FOREIGN: tuple[tuple[type[Exception], Callable[[Any], CliError]], ...] = (
    (SensorLogError, _from_query),
    (ApiException, _from_kubernetes),
    (ConfigException, _from_config),
    (KafkaException, _from_kafka),
    (HTTPError, _from_network),
    (WebSocketException, _from_network),
    (ConnectionError, _from_network),
    (TimeoutError, _from_network),
)
"""Which foreign error is translated by what; the first that fits."""
