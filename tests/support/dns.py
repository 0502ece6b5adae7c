"""A DNS server that knows one name, whose addresses a test may change: what a headless Service is to its clients."""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

HEADER = struct.Struct("!6H")
ANSWER = struct.Struct("!HHHIH4s")
TYPE_A, CLASS_IN = 1, 1
IS_ANSWER = 0x8580
"""A response, authoritative, to a query that wanted recursion."""
NAME_OF_QUESTION = 0xC00C
"""A pointer to the name that was asked for."""


class DnsServer:
    """Answers every question for A records with `addresses`, others with nothing. Use it as a context."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.asked = 0
        """How often somebody wanted the addresses."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)

    @property
    def port(self) -> int:
        """The UDP port of 127.0.0.1 that is listened on."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        """Answer until the block ends."""
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        """Stop."""
        with contextlib.suppress(OSError):  # of a socket without a peer; whoever waits for it wakes up all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        number = HEADER.unpack_from(query)[0]
        end = query.index(b"\0", HEADER.size) + 5  # of the name, a type and a class
        kind = struct.unpack_from("!H", query, end - 4)[0]
        addresses = list(self.addresses) if kind == TYPE_A else []
        self.asked += kind == TYPE_A
        answers = (
            ANSWER.pack(NAME_OF_QUESTION, TYPE_A, CLASS_IN, 0, 4, ipaddress.IPv4Address(each).packed)
            for each in addresses
        )
        return HEADER.pack(number, IS_ANSWER, 1, len(addresses), 0, 0) + query[HEADER.size : end] + b"".join(answers)
