"""A TCP link that gets lost: after a chosen request, for all connections or those of now, with a word or without."""

import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

HOST = "127.0.0.1"
LOOK_SECONDS = 0.05
STARTUP = 196608
"""The protocol version that PostgreSQL's startup message begins with; what may come before is no request."""

ENDS_REQUEST = b"QSp"
"""Types of PostgreSQL's messages that a client waits for an answer to: Query, Sync, and those of a password."""


class Dialect(Protocol):
    """What one connection says, as far as a link must understand it."""

    def requests(self, data: bytes) -> int:
        """Return how many requests end in what the client sends."""

    def answer(self, data: bytes) -> bytes:
        """Return what the client is to get for what the server sends."""


class Opaque:
    """Says what no link understands."""

    def requests(self, data: bytes) -> int:  # noqa: ARG002
        """Return none."""
        return 0

    def answer(self, data: bytes) -> bytes:
        """Return what comes as it is."""
        return data


class Postgres(Opaque):
    """Frontend messages: a type, a length; at first without a type. Source: PostgreSQL docs, "Message Formats"."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def requests(self, data: bytes) -> int:
        """Count the startup, statements and passwords."""
        self._rest += data
        found = 0
        while len(self._rest) >= (head := 5 if self._started else 4):
            kind, (length,) = self._rest[: head - 4], struct.unpack(">i", self._rest[head - 4 : head])
            size = length + head - 4
            if len(self._rest) < size:
                break
            if not self._started:
                self._started = struct.unpack(">i", self._rest[4:8])[0] == STARTUP
                found += self._started
            else:
                found += kind in ENDS_REQUEST
            self._rest = self._rest[size:]
        return found


class Kafka(Opaque):
    """Frames with a length. Answers name brokers by host and port: the client is led to the link instead."""

    def __init__(self, broker: int, link: int) -> None:
        name = HOST.encode()
        self._there, self._here = (name + struct.pack(">i", port) for port in (broker, link))
        self._asked = b""
        self._answered = b""

    def requests(self, data: bytes) -> int:
        """Count the frames."""
        frames, self._asked = _frames(self._asked + data)
        return len(frames)

    def answer(self, data: bytes) -> bytes:
        """Return whole frames, with the link's port for the broker's."""
        frames, self._answered = _frames(self._answered + data)
        return b"".join(frame.replace(self._there, self._here) for frame in frames)


def _frames(data: bytes) -> tuple[list[bytes], bytes]:
    frames = []
    while len(data) >= 4 and len(data) >= (size := 4 + struct.unpack(">i", data[:4])[0]):
        frames.append(data[:size])
        data = data[size:]
    return frames, data


class State(enum.Enum):
    """What happens to what is sent over a link."""

    OPEN = "it arrives"
    HELD = "it arrives when the link is open again"
    CUT = "connections end"


class Link:
    """Forwards TCP connections to a port of this host. Use it as a context.

    `requests` counts those that clients have made, of dialects that have any.
    """

    def __init__(self, port: int, dialect: Callable[[int], Dialect] = lambda _: Opaque()) -> None:
        self._target = (HOST, port)
        self._dialect = dialect
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._changed = threading.Condition()
        self._state = State.OPEN
        self._connections: set[_Connection] = set()
        self._cut_after: int | None = None
        self.requests = 0
        self.lost = threading.Event()
        """Set once `cut_after` has happened."""
        self._thread = threading.Thread(target=self._accept, name="link", daemon=True)
        self._thread.start()

    @classmethod
    def to_kafka(cls, port: int) -> Self:
        """Return a link to a broker; clients find it at the link alone."""
        return cls(port, lambda link: Kafka(port, link))

    @classmethod
    def to_postgres(cls, port: int) -> Self:
        """Return a link to a database."""
        return cls(port, lambda _: Postgres())

    @property
    def port(self) -> int:
        """The port of this host that is listened on."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        """Stop listening, and cut what is connected."""
        self.cut()
        _shut(self._listener)
        self._thread.join()
        self._listener.close()

    def cut(self) -> None:
        """End all connections, and new ones as they come, until `restore`."""
        self._become(State.CUT)
        self.cut_connections()

    def cut_connections(self) -> None:
        """End the connections of now."""
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            connection.end()

    def hold(self) -> None:
        """Let nothing through and say nothing about it, until `restore`."""
        self._become(State.HELD)

    def restore(self) -> None:
        """Let everything through."""
        self._become(State.OPEN)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Be cut within this block."""
        self.cut()
        try:
            yield
        finally:
            self.restore()

    def silence(self) -> int:
        """Let nothing through on the connections of now, for ever and without a word; return how many they are."""
        with self._changed:
            for connection in self._connections:
                connection.is_silent = True
            return len(self._connections)

    def cut_after(self, requests: int) -> None:
        """Be cut when the answer to the request of this number comes: it was done, and the client does not know."""
        self._cut_after = requests

    def _become(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # of a listener that is shut
            while True:
                client, _ = self._listener.accept()
                if self._state is State.CUT:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._target, timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._connect(client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        connection = _Connection(self, client, server, self._dialect(self.port))
        with self._changed:
            self._connections.add(connection)
        connection.start()

    def forget(self, connection: "_Connection") -> None:
        """Know of a connection no more."""
        with self._changed:
            self._connections.discard(connection)

    def passes(self, connection: "_Connection") -> bool:
        """Wait while nothing is let through; return whether anything may pass then."""
        with self._changed:
            while self._state is State.HELD or connection.is_silent:
                if connection.is_over or self._state is State.CUT:
                    return False
                self._changed.wait(LOOK_SECONDS)
            return self._state is State.OPEN

    def count(self, requests: int) -> bool:
        """Count requests; return whether the answer to the last of them is to be lost."""
        with self._changed:
            before, self.requests = self.requests, self.requests + requests
            return self._cut_after is not None and before < self._cut_after <= self.requests

    def lose(self) -> None:
        """Be cut, as `cut_after` asked for."""
        self.cut()
        self.lost.set()


class _Connection:
    """One connection, a thread for each direction."""

    def __init__(self, link: Link, client: socket.socket, server: socket.socket, dialect: Dialect) -> None:
        self._link = link
        self._client = client
        self._server = server
        self._dialect = dialect
        self._loses_answer = False
        self.is_silent = False
        self.is_over = False

    def start(self) -> None:
        """Forward until one side is gone."""
        threading.Thread(target=self._run, name="link-connection", daemon=True).start()

    def end(self) -> None:
        """End both sides; the threads close them."""
        self.is_over = True
        _shut(self._server)
        _shut(self._client)

    def _run(self) -> None:
        answers = threading.Thread(target=self._forward_answers, name="link-answers", daemon=True)
        answers.start()
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                self._loses_answer |= self._link.count(self._dialect.requests(data))
                if not self._link.passes(self):
                    break
                self._server.sendall(data)
        self.end()
        answers.join()
        self._link.forget(self)
        self._client.close()
        self._server.close()

    def _forward_answers(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self._server.recv(65536)) and self._link.passes(self):
                if self._loses_answer:
                    self._link.lose()
                    break
                self._client.sendall(self._dialect.answer(data))
        self.end()


def _shut(each: socket.socket) -> None:
    """Wake whoever waits for this socket; the thread that owns it closes it."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
