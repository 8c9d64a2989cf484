"""Lets all processes that share the tests share what is slow to make, too, and begin with the tests that take long."""

from __future__ import annotations

from itertools import islice

import pytest

from tests import shared


def pytest_configure(config: pytest.Config) -> None:
    shared.folder()
    config.addinivalue_line("markers", "long: takes ten seconds or more, and is begun before the others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each process as many of the long tests, and those first: at the end they would leave the others idle.

    Of a list of tests, pytest-xdist gives the first process the first part, and so on. What a process has left over is
    taken from it from the end.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 0)
    long = [item for item in items if item.get_closest_marker("long")]
    others = (item for item in items if not item.get_closest_marker("long"))
    ordered: list[pytest.Item] = []
    for number in range(processes):
        size = (len(items) - len(ordered)) // (processes - number)
        first = long[number::processes]
        ordered += [*first, *islice(others, max(0, size - len(first)))]
    items[:] = ordered or items
