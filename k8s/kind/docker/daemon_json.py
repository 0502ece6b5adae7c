"""Merge our keys into Docker's daemon.json, or take them out again.

Usage: daemon_json.py FILE add RUNTIME_PATH | daemon_json.py FILE remove
Every other key of the file stays as it was.
"""
# ruff: noqa: INP001  # a script that stands beside what it serves, not a package

import json
import sys
from pathlib import Path

RUNTIME = "sensorlog-runc"


def add(config: dict, runtime_path: str) -> None:
    """Make RUNTIME the default runtime; without the capability scores cannot be lowered."""
    config.setdefault("runtimes", {})[RUNTIME] = {"path": runtime_path}
    config["default-runtime"] = RUNTIME
    config["oom-score-adjust"] = 0


def remove(config: dict) -> None:
    """Take out what add() put in."""
    if config.get("default-runtime") == RUNTIME:
        del config["default-runtime"]
        config.pop("oom-score-adjust", None)
    config.get("runtimes", {}).pop(RUNTIME, None)
    if not config.get("runtimes", True):
        del config["runtimes"]


def main() -> None:
    """Rewrite FILE atomically."""
    path, action, *rest = sys.argv[1:]
    file = Path(path)
    config = json.loads(file.read_text()) if file.exists() and file.stat().st_size else {}
    if action == "add":
        add(config, *rest)
    else:
        remove(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".json.new")
    draft.write_text(json.dumps(config, indent=2) + "\n")
    draft.replace(file)


if __name__ == "__main__":
    main()
