"""How far an export is, for a person who waits: readings so far, readings a second, position in the range."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sensorlog.client import Block
from sensorlog_cli.moments import show
from sensorlog_cli.output import messages

_STEPS = 1000


class ExportProgress:
    """Counts the readings of blocks on their way, and shows it where standard error is a terminal, within its context.

    `end` is the first `ts` that is not wanted, None where that is not known; then no position is shown. `is_quiet`
    where the readings themselves go to the terminal.
    """

    def __init__(self, start: int | None, end: int | None, *, is_quiet: bool = False) -> None:
        console = messages()
        self.rows = 0
        self._start = start
        self._end = end
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[rows]:,} readings"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("at {task.fields[position]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=is_quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("export", total=None, rows=0, rate=0.0, position="the start")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def following(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield `blocks`; each counts when the one after it is asked for, which is when it has been written."""
        for block in blocks:
            yield block
            self._note(block)

    def _note(self, block: Block) -> None:
        if not len(block):
            return
        self.rows += len(block)
        first, last = int(block.ts[0]), int(block.ts[-1])
        self._start = first if self._start is None else self._start
        self._bar.update(
            self._task,
            rows=self.rows,
            rate=self.rows / max(time.monotonic() - self._began, 1e-9),
            position=show(last, block.unit),
            total=None if self._end is None else _STEPS,
            completed=0 if self._end is None else fraction(last, self._start, self._end) * _STEPS,
        )


def fraction(ts: int, start: int, end: int) -> float:
    """Return which part of start..end lies before `ts`, from 0 to 1."""
    return min(1.0, max(0.0, (ts - start) / max(1, end - start)))
