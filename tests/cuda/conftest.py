from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import shared
from tests.cuda import fake_driver
from tests.cuda.fake_driver import FakeDriver
from tests.cuda.launcher import Launcher, build_probe

_copies = itertools.count()


@pytest.fixture(scope="session")
def fake_library() -> Path:
    """The fake driver's file."""
    if fake_driver.compiler() is None:
        pytest.skip("no C++ compiler")
    return shared.once("driver", fake_driver.build)


@pytest.fixture(scope="session")
def probe_library() -> Path:
    """The launcher as C functions."""
    if fake_driver.compiler() is None:
        pytest.skip("no C++ compiler")
    return shared.once("launcher", build_probe)


@pytest.fixture
def new_launcher(probe_library: Path, tmp_path: Path) -> Callable[[], Launcher]:
    """Makes launchers that share nothing, as if each were in a process of its own."""

    def make() -> Launcher:
        return Launcher(Path(shutil.copy(probe_library, tmp_path / f"probe{next(_copies)}.so")))

    return make


@pytest.fixture
def driver(fake_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """A fresh fake driver, in the driver's place."""
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", str(fake_library))
    driver = FakeDriver(fake_library)
    driver.reset()
    yield driver
    driver.reset()


@pytest.fixture
def launcher(driver: FakeDriver, new_launcher: Callable[[], Launcher]) -> Launcher:
    """A launcher that has opened no driver and loaded no kernel yet."""
    del driver  # has to be there
    return new_launcher()
