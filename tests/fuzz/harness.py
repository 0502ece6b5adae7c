"""One fuzz target under atheris: `harness.py TARGET [libFuzzer's arguments]`; a file is replayed.

Atheris sees our Python code but not msgspec and the other C code underneath. The oracle is instrumented too, because
it branches where JSON and the rules do; the standard library's parser in Python runs beside it for the same purpose.
"""

import json
import sys
from contextlib import suppress
from json.decoder import JSONArray, JSONObject, py_scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["sensorlog_ingest", "fuzz"]):
    from fuzz.targets import SEPARATOR, TARGETS


def _guide() -> json.JSONDecoder:
    """Return a parser whose branches the fuzzer sees."""
    guide = json.JSONDecoder()
    guide.parse_object = atheris.instrument_func(JSONObject)  # type: ignore[attr-defined]
    guide.parse_array = atheris.instrument_func(JSONArray)  # type: ignore[attr-defined]
    guide.parse_string = atheris.instrument_func(py_scanstring)  # type: ignore[attr-defined]
    guide.scan_once = atheris.instrument_func(py_make_scanner)(guide)  # type: ignore[attr-defined]
    return guide


def main() -> None:
    """Fuzz the target that the first argument names."""
    target, guide = TARGETS[sys.argv.pop(1)], _guide()

    def test_one_input(data: bytes) -> None:
        for part in data[1:].split(SEPARATOR):
            with suppress(ValueError, RecursionError):
                guide.decode(part.decode("latin-1"))
        target(data)

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
