"""How the whole suite is spread over processes: most of its time is waiting, for outages to pass and pods to start.

The tests of a file stay in one process, in their order, because they share containers. All end-to-end tests stay in
one, because they share a cluster.
"""

from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

END_TO_END = "tests/e2e/"

# No test is timed: on a busy machine an example may wait for a second.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives each file to one process, and all end-to-end tests to one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return END_TO_END if file.startswith(END_TO_END) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Return what spreads the tests, whatever --dist says."""
    return Scheduling(config, log)
