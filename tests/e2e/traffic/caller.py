"""Calls the query service without a pause until /tmp/stop is there; runs in a pod of the query image.

Arguments: the Service that has one address, the Service that has one address a pod. Prints one line of JSON:
{"calls": {"steady": 900, ...}, "failures": ["steady: UnavailableError: ...", ...]}.
"""

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sensorlog.client import Client, SensorLogError

STOP = Path("/tmp/stop")  # noqa: S108 -- of a container that lives for a test
PAUSE_SECONDS = 0.02

calls: Counter[str] = Counter()
failures: list[str] = []


def call(client: Client, kind: str) -> None:
    """Ask once and note what came of it."""
    try:
        client.latest()
    except SensorLogError as e:
        failures.append(f"{kind}: {type(e).__name__}: {e}")
    else:
        calls[kind] += 1


def steady(target: str, kind: str, pause: threading.Event) -> None:
    """Call on one client, as a program does that runs for days."""
    with Client(target) as client:
        while not STOP.exists():
            call(client, kind)
            pause.wait(PAUSE_SECONDS)


def fresh(target: str, pause: threading.Event) -> None:
    """Call on a new connection each time, as a program does that runs for a moment."""
    while not STOP.exists():
        with Client(target) as client:
            call(client, "fresh")
        pause.wait(PAUSE_SECONDS)


def main(one: str, each: str) -> None:
    """Call in all three ways at once."""
    pause = threading.Event()
    with ThreadPoolExecutor() as threads:
        running = [
            threads.submit(steady, one, "steady", pause),
            threads.submit(steady, each, "balancing", pause),
            threads.submit(fresh, one, pause),
        ]
        for ended in as_completed(running):
            ended.result()
    sys.stdout.write(json.dumps({"calls": calls, "failures": failures}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
