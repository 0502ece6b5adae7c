"""How the whole suite is spread over processes: most of its time is waiting, for outages to pass and pods to start.

The tests of a file stay in one process, in their order, because they share containers. All end-to-end tests stay in
one, because they share a cluster.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into the group that one process runs."""
    for item in items:
        group = "cluster" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
