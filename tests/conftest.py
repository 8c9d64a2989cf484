"""Lets all processes that share the tests among them share what is slow to make, too."""

from __future__ import annotations

from tests import shared


def pytest_configure() -> None:
    shared.folder()
