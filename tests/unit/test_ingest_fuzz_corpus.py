"""The fuzzers' corpus and every input that once broke ingest, replayed without a fuzzer."""

from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz/corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


def test_every_target_has_a_corpus() -> None:
    """`make fuzz` starts from seeds, and the test below replays some for each target."""
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_corpus_holds(path: Path) -> None:
    """Ingest does with each input what the oracle says."""
    TARGETS[path.parent.name](path.read_bytes())
