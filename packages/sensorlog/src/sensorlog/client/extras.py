"""Libraries that only some users of the client need: what is missing is named with the extra that brings it."""

import importlib
from typing import Any

from sensorlog.client.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Return the imported `module`; MissingExtraError names the `extra` of sensorlog that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MissingExtraError(module, extra) from e
