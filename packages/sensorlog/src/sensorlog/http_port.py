"""An HTTP port that is served beside a process's work."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpPort:
    """A port of `address`, an empty one for all, served by daemon threads between `start` and `stop`.

    OSError where it cannot be listened on.
    """

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler], name: str) -> None:
        self._http = ThreadingHTTPServer((address, port), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, name=name, daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for."""
        return int(self._http.server_address[1])

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, if it was begun, and free the port."""
        if self._thread.ident:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
