"""Entry point of `sensorlog`, `kubectl-sensorlog` and `python -m sensorlog_cli`."""

from sensorlog_cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
