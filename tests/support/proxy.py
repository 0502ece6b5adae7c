"""A PostgreSQL proxy that loses a connection at the one moment that matters: COMMIT."""

import contextlib
import enum
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""How psycopg commits: a simple query of its own, whose answer it waits for before it sends anything else."""


class CommitLoss(enum.Enum):
    """When a connection is lost around COMMIT; the client cannot tell one from the other."""

    REQUEST = "before the database hears of it: it rolls back"
    WAIT = "as soon as the database has it: it commits, sooner or later"
    ANSWER = "when the database has committed and answers"


@dataclass
class _Loss:
    kind: CommitLoss
    before_cut: Callable[[], None]
    happened: threading.Event = field(default_factory=threading.Event)


class CommitProxy:
    """Forwards TCP connections to `host`:`port` and cuts the one that commits, when told to. Use it as a context.

    It listens on `address`, by default on any free port.
    """

    def __init__(self, host: str, port: int, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(address)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._planned: _Loss | None = None
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        """Return the proxy."""
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        """Stop listening, and cut what is connected."""
        _shut(self._listener)
        self._thread.join()
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            _shut(each)

    def plan_loss(self, kind: CommitLoss, before_cut: Callable[[], None] = lambda: None) -> threading.Event:
        """Lose the next COMMIT; the event tells when it has happened.

        `before_cut` is called before the client notices: after the database has answered, or instead of committing.
        """
        self._planned = loss = _Loss(kind, before_cut)
        return loss.happened

    def lose_commit(
        self, kind: CommitLoss, before_cut: Callable[[], None] = lambda: None, *, deadline: float = 30
    ) -> None:
        """Lose the next COMMIT and return when it has happened; otherwise as `plan_loss`."""
        assert self.plan_loss(kind, before_cut).wait(deadline), f"no COMMIT came within {deadline:.0f} s"

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):  # of a listener that is shut
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target, timeout=5)
                except OSError:
                    _shut(client)
                    client.close()
                    continue
                server.settimeout(None)
                _Connection(self, client, server).start()

    def take_planned(self) -> _Loss | None:
        """Return the loss that is planned, once."""
        with self._lock:
            planned, self._planned = self._planned, None
            return planned

    @contextlib.contextmanager
    def open(self, *sockets: socket.socket) -> Iterator[None]:
        """Know of these sockets within this block, and close them after it."""
        with self._lock:
            self._sockets.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.difference_update(sockets)
            for each in sockets:
                each.close()


class _Connection:
    """One client, one session of the database, a thread for each direction."""

    def __init__(self, proxy: CommitProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._loss: _Loss | None = None

    def start(self) -> None:
        """Forward until one side is gone."""
        threading.Thread(target=self._run, name="proxy-connection", daemon=True).start()

    def _run(self) -> None:
        with self._proxy.open(self._client, self._server):
            answers = threading.Thread(target=self._forward_answers, name="proxy-answers", daemon=True)
            answers.start()
            self._forward_requests()
            answers.join()

    def _forward_requests(self) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                tail = (tail + data)[-len(COMMIT) :]
                if tail == COMMIT:
                    self._loss = self._proxy.take_planned()
                if self._loss and self._loss.kind is CommitLoss.REQUEST:
                    self._cut(self._loss)
                    return
                self._server.sendall(data)
                if self._loss and self._loss.kind is CommitLoss.WAIT:
                    self._cut(self._loss)
                    return
        _shut(self._server)

    def _forward_answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                if self._loss:  # a whole COMMIT was sent, so this is its answer
                    self._cut(self._loss)
                    return
                self._client.sendall(data)
        _shut(self._client)

    def _cut(self, loss: _Loss) -> None:
        loss.before_cut()
        _shut(self._server)
        _shut(self._client)
        loss.happened.set()


def _shut(each: socket.socket) -> None:
    """Wake whoever waits for this socket; the thread that owns it closes it."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
