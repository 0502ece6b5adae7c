"""Where an export goes: standard output, or a file that is there only when it is whole."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from sensorlog_cli.errors import CliError

STANDARD_OUTPUT = "-"


class _Gate(RawIOBase):
    """Passes on what is written until it is shut, and nothing afterwards.

    pyarrow's writers finish their file when they are collected, also after an error: it would look whole.
    """

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._is_shut = False

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Pass `data` on, whole."""
        if not self._is_shut:
            self._sink.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Pass on that what was written should be out."""
        if not self._is_shut:
            self._sink.flush()

    def shut(self) -> None:
        """Pass nothing on any more."""
        self._is_shut = True


@contextmanager
def destination(path: str) -> Iterator[BinaryIO]:
    """Yield what to write to for `path`, `-` being standard output.

    A file gets its name, and takes the place of an older one, at the end of the block; when the block raises, nothing
    is left of it. Raises CliError when it cannot be written.
    """
    if path == STANDARD_OUTPUT:
        with _gated(sys.stdout.buffer) as sink:
            yield sink
        return
    try:
        with _file(Path(path).resolve()) as sink:
            yield sink
    except OSError as e:
        if e.filename is None and e.errno is None:  # not of a file: a library's own
            raise
        raise CliError(f"cannot write {path}: {e.strerror}") from e


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():  # a device or a pipe has no place to be taken
        with path.open("wb") as special, _gated(special) as sink:
            yield sink
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file, _gated(file) as sink:
            yield sink
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _gated(sink: BinaryIO) -> Iterator[BinaryIO]:
    gate = _Gate(sink)
    try:
        yield cast("BinaryIO", gate)
        sink.flush()
    finally:
        gate.shut()
