"""A gRPC client that keeps its connection alive and reads nothing: the server may not send a byte of a reply.

No library does that. It speaks just enough HTTP/2 (RFC 9113) and HPACK (RFC 7541) for it.
"""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK = 1
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4


class DeafClient:
    """Makes unary calls of the Logger service and leaves their replies with the server."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = target
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._stream = 1
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._answer)
        self._send(PREFACE + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def call(self, method: str, request: Message) -> None:
        """Make a call."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/logger.service.v1.Logger/{method}",
            ":authority": self._target,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())
        message = request.SerializeToString()
        body = struct.pack(">BI", 0, len(message)) + message
        self._send(_frame(HEADERS, END_HEADERS, self._stream, block) + _frame(DATA, END_STREAM, self._stream, body))
        self._stream += 2

    def _send(self, frames: bytes) -> None:
        with self._sending:
            self._socket.sendall(frames)

    def _answer(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as incoming:
            while header := incoming.read(9):
                length, kind, flags = int.from_bytes(header[:3]), header[3], header[4]
                payload = incoming.read(length)
                if kind in (PING, SETTINGS) and not flags & ACK:
                    self._send(_frame(kind, ACK, 0, payload if kind == PING else b""))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _string(text: str) -> bytes:
    """Return a literal that is not Huffman coded."""
    encoded = text.encode()
    assert len(encoded) < 127
    return bytes([len(encoded)]) + encoded
