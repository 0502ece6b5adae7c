"""What the registry knows is what sets of ids would know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog_ingest import registry

ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5))


def _array(numbers: list[int] | set[int]) -> registry.Ids:
    return np.array(sorted(numbers), np.int64)


@given(ids, ids)
def test_ids_that_are_not_known_are_found_and_remembered(seen: list[int], batch: list[int]) -> None:
    """Each once, in order, as one statement takes them."""
    known = registry.distinct(_array(seen))
    new = registry.unknown(registry.distinct(_array(batch)), known)
    assert new.tolist() == sorted(set(batch) - set(seen))
    assert registry.merged(known, new).tolist() == sorted(set(batch) | set(seen))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that only the newest ids are; the database is asked again for the others."""
    monkeypatch.setattr(registry, "MAX_KNOWN", 3)
    assert registry.merged(_array({1, 3}), _array({2})).tolist() == [1, 2, 3]
    assert registry.merged(_array({1, 2, 3}), _array({4})).tolist() == [4]
