from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda import fake_driver, launcher


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver."""
    return fake_driver.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def probe_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher as C functions."""
    return launcher.build_probe(tmp_path_factory.mktemp("launcher"))
