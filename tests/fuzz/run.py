"""`make fuzz`: runs the targets one after another, guided by coverage, and shows how far each has come.

What a run finds interesting is kept in tests/fuzz/.work (not committed), and the next run builds on it. An input that
breaks a target is written to tests/fuzz/crashers.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

HERE = Path(__file__).parent
WORK = HERE / ".work"
CRASHERS = HERE / "crashers"
MAX_INPUT_BYTES = 4096
LIMITS = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]
TARGETS = sorted(path.name for path in (HERE / "corpus").iterdir())
PROGRESS = re.compile(r"#(\d+)\s.*?cov: (\d+).*?corp: (\d+)")

console = Console()


def main(
    targets: Annotated[list[str] | None, typer.Argument(help="Which; all where none is named.")] = None,
    seconds: Annotated[int, typer.Option(min=1, help="How long each target runs.")] = 60,
) -> None:
    """Fuzz ingest's decoder; the exit code is 1 where an input was found that breaks a target."""
    if importlib.util.find_spec("atheris") is None:
        raise typer.BadParameter("atheris is missing: it has wheels for Linux on x86-64 only")
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        broken = [target for target in targets or TARGETS if not _run(target, seconds, progress)]
    if broken:
        console.print(f"Broken: {', '.join(broken)}. CONTRIBUTING.md says what to do with the files in {CRASHERS}.")
        raise typer.Exit(1)


def _run(target: str, seconds: int, progress: Progress) -> bool:
    """Fuzz one target and return whether it held."""
    task = progress.add_task(target, total=seconds, state="starting")
    with subprocess.Popen(_command(target, seconds), stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            found = PROGRESS.search(line)
            if found:
                runs, coverage, corpus = found.groups()
                state = f"{int(runs):>9,} runs  {coverage:>5} branches  {corpus:>4} inputs"
                progress.update(task, completed=min(seconds, progress.tasks[task].elapsed or 0), state=state)
            elif line.startswith(("AssertionError", " === Uncaught", "Traceback", "ALARM", "artifact_prefix")):
                console.print(line.rstrip(), markup=False)
    progress.update(task, completed=seconds)
    return process.returncode == 0


def _command(target: str, seconds: int) -> list[str]:
    work = WORK / target
    work.mkdir(parents=True, exist_ok=True)
    CRASHERS.mkdir(exist_ok=True)
    return [
        *(sys.executable, str(HERE / "harness.py"), target, *LIMITS),
        *(f"-max_total_time={seconds}", f"-dict={HERE / 'json.dict'}", f"-artifact_prefix={CRASHERS}/{target}-"),
        *(str(work), str(HERE / "corpus" / target)),
    ]


if __name__ == "__main__":
    typer.run(main)
