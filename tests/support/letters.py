"""Dead letters as an ingest pod is asked about them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sensorlog.letters import (
    Answer,
    Failed,
    Progress,
    Refused,
    Request,
    Returned,
    Selection,
    read_answer,
    request_lines,
)
from support.pipelines import Pipeline

REPLAY_SECONDS = 60
EVERYTHING = Selection()


@contextmanager
def program(pipeline: Pipeline, request: Request, replacement: bytes = b"") -> Iterator["subprocess.Popen[str]"]:
    """Start the program that the ingest pod would run, and hand it a request; its standard input stays open."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SENSORLOG_")}
    with subprocess.Popen(
        [sys.executable, "-m", "sensorlog_ingest.letters"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**inherited, **pipeline.environment},
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.writelines(f"{line}\n" for line in request_lines(request, replacement))
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def ask(pipeline: Pipeline, request: Request, replacement: bytes = b"") -> list[Answer]:
    """Return what the program answers; it must end by itself, and say nothing besides."""
    with program(pipeline, request, replacement) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = [read_answer(line) for line in process.stdout]
        status = process.wait(REPLAY_SECONDS)
        assert process.stderr.read() == ""
    assert status == int(isinstance(said[-1], (Refused, Failed)))
    return said


def replay(pipeline: Pipeline, selection: Selection = EVERYTHING, **options: Any) -> tuple[Progress, list[Returned]]:
    """Replay letters; return what was done in the end, and what went back."""
    replacement = options.pop("value", b"")
    said = ask(pipeline, Request(action="replay", selection=selection, **options), replacement)
    assert isinstance(said[-1], Progress), said[-1]
    return said[-1], [answer for answer in said if isinstance(answer, Returned)]
