"""The channel to a query service: where it leads, what it retries by itself, how it notices that the other end is gone.

gRPC does the work, told by a service config (https://github.com/grpc/grpc/blob/master/doc/service_config.md) and
channel arguments (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sensorlog.rpc import logger_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Logger"].full_name

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""A page of 10,000 readings with 256 measurements of long names; gRPC's default of 4 MiB is ten measurements."""

TRIED_AGAIN = (grpc.StatusCode.UNAVAILABLE.name, grpc.StatusCode.CANCELLED.name)
"""A server that stops ends as CANCELLED what it is sent before the caller knows; what a caller cancels is not tried."""

_OTHER_SCHEMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call that ends UNAVAILABLE or CANCELLED is tried, and the pauses between.

    gRPC makes each pause up to a fifth longer or shorter by lot, and never waits beyond the call's timeout. With the
    defaults it goes on for about 12 seconds, which a restarting pod needs. A service that says when to come back
    (grpc-retry-pushback-ms) is obeyed. Other codes are never retried: the same request would fail again, or, with
    RESOURCE_EXHAUSTED, make it worse.
    """

    attempts: int = 5
    """Of 1 (no retry) to 5, which is gRPC's limit."""
    first_pause: float = 0.3
    """In seconds."""
    multiplier: float = 3.0
    longest_pause: float = 10.0
    """In seconds."""

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 5:  # noqa: PLR2004 -- said in the message
            raise ValueError(f"attempts: {self.attempts} is not accepted; must be between 1 and 5")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to know the service, and be known by it. Files are PEM; without `ca_file` the system's authorities count.

    `server_name` is the name that the service's certificate has, where it is not that of the target.
    """

    ca_file: Path | str | None = None
    certificate_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials; OSError when a file cannot be read."""
        return grpc.ssl_channel_credentials(
            _read(self.ca_file), private_key=_read(self.key_file), certificate_chain=_read(self.certificate_file)
        )


def open_channel(
    target: str, *, retries: Retries, tls: Tls | None = None, credentials: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """Return a channel to `target`, which connects at its first call; in plain text without `tls` or `credentials`."""
    if tls is not None and credentials is not None:
        raise ValueError("tls and credentials both say how to authenticate: give one of them")
    arguments = _arguments(retries)
    if tls is not None:
        credentials = tls.credentials()
        if tls.server_name:
            arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    if credentials is None:
        return grpc.insecure_channel(resolved_by(target), options=arguments)
    return grpc.secure_channel(resolved_by(target), credentials, options=arguments)


def resolved_by(target: str) -> str:
    """Return `target` with DNS as its resolver where it names none: all addresses of a name are then used in turn."""
    return target if "://" in target or target.startswith(_OTHER_SCHEMES) else f"dns:///{target}"


def service_config(retries: Retries) -> dict[str, Any]:
    """Return what gRPC is told about the service's methods: all of them only read, so all may be repeated."""
    method: dict[str, Any] = {"name": [{"service": SERVICE}]}
    if retries.attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": retries.attempts,
            "initialBackoff": f"{retries.first_pause:.3f}s",
            "maxBackoff": f"{retries.longest_pause:.3f}s",
            "backoffMultiplier": retries.multiplier,
            "retryableStatusCodes": list(TRIED_AGAIN),
        }
    return {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}


def _arguments(retries: Retries) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", json.dumps(service_config(retries))),
        ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
        # A peer that is gone without a word is noticed after 40 s at most, and only while a call waits for it.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # An export whose reader is slow sends nothing for long, and must go on asking whether anyone is there.
        ("grpc.http2.max_pings_without_data", 0),
        # The defaults of 1 s and 2 min would outlast the pauses between retries.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
