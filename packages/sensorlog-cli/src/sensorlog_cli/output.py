"""How results leave: data alone on standard output, everything said to people on standard error."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sensorlog_cli.options import Output

Row = Mapping[str, Any]
"""One result, as its JSON reads."""

_PIPE_WIDTH = 200
"""Columns of a table that does not go to a terminal, where rich would assume 80 and cut values."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its header, and the text of a row in it."""

    header: str
    text: Callable[[Row], str]
    right: bool = False


def results() -> Console:
    """Return standard output as it is now; tests and pipes replace it."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def messages() -> Console:
    """Return standard error as it is now."""
    return Console(file=sys.stderr, highlight=False)


def say(message: str) -> None:
    """Tell a person something that is no result."""
    messages().print(Text(message), soft_wrap=True)


def write_rows(rows: Iterable[Row], output: Output, columns: Callable[[Sequence[Row]], Sequence[Column]]) -> None:
    """Write `rows` as `output` says: jsonl line by line as they come, json and tables once all are there."""
    if output is Output.JSONL:
        for row in rows:
            write_line(row)
        return
    everything = list(rows)
    if output is Output.JSON:
        write_json(everything)
    else:
        _write_table(everything, columns(everything))


def write_json(document: object) -> None:
    """Write one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_line(document: object) -> None:
    """Write a JSON document on one line."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def _write_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    if not rows:
        say("nothing there")
        return
    results().print(table_of(rows, columns))


def table_of(rows: Sequence[Row], columns: Sequence[Column], title: str | None = None) -> Table:
    """Return a table of `rows`; cells are plain text, never markup."""
    table = plain_table(title, *((column.header, column.right) for column in columns))
    for row in rows:
        table.add_row(*(Text(column.text(row)) for column in columns))
    return table


def plain_table(title: str | None, *headers: tuple[str, bool]) -> Table:
    """Return an empty table of `headers`, each with whether it aligns right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header, right in headers:
        table.add_column(Text(header, style="bold"), justify="right" if right else "left", overflow="fold")
    return table


def number(value: float | None) -> str:
    """Return a measurement for people: at most three decimals, a dash for NULL."""
    if value is None:
        return "-"
    return f"{value:.3f}".rstrip("0").rstrip(".")


def counted(number: int, thing: str) -> str:
    """Return how many of a thing, in words: `1 reading`, `2 readings`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done, where standard error is a terminal; the yielded function hears how many more.

    `doing` is the word before the bar.
    """
    console = messages()
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda count: bar.advance(task, count)
