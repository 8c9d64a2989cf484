"""These tests need an NVIDIA GPU and an ONNX Runtime with the CUDA provider; elsewhere they are skipped, with why."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest

from turbo_onnx import nvidia, sessions
from turbo_onnx.errors import InputError

HERE = Path(__file__).parent


@functools.cache
def why_not() -> str | None:
    """Why nothing can be run on a GPU here; None where it can."""
    try:
        nvidia.first_device()
        sessions.require_provider()
    except InputError as error:
        return str(error)
    return None if importlib.util.find_spec("triton") is not None else "Triton is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    if reason is not None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def capability() -> int:
    """Of the GPU."""
    return nvidia.first_device().capability
