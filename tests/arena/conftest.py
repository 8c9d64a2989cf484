from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from tests import shared
from tests.arena import build


@pytest.fixture(scope="session")
def probe() -> ctypes.CDLL:
    """The arena as C functions."""
    _require_compiler()
    return build.load_library(shared.once("arena", build.build_library))


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """The arena as a program, under each sanitizer."""
    _require_compiler()
    return shared.once("arena under sanitizers", build.build_programs)


def _require_compiler() -> None:
    if build.compiler() is None:
        pytest.skip("no C++ compiler")
    if sys.platform != "linux":
        pytest.skip("failures are injected by the linker for ELF files")
