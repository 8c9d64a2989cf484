from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from tests.arena import build


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The arena as C functions."""
    _require_compiler()
    return build.build_library(tmp_path_factory.mktemp("arena"))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The arena as a program, under each sanitizer."""
    _require_compiler()
    return build.build_programs(tmp_path_factory.mktemp("sanitized"))


def _require_compiler() -> None:
    if build.compiler() is None:
        pytest.skip("no C++ compiler")
    if sys.platform != "linux":
        pytest.skip("failures are injected by the linker for ELF files")
