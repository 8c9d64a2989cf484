"""The vector that kernels are written with, at every instruction set that this machine has."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.custom_ops.instruction_sets import VECTORS, weaker
from tests.custom_ops.single_node import Array

FLAGS = {"baseline": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]}
RUNNABLE = VECTORS[: len(weaker(VECTORS)) + 1]
SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 88.72, 88.73, -87.4, 1e30, -1e30, 1e-40]
ULP = 2.0**-23  # of a number in [1, 2): a relative error of half of it is the best that there is


@pytest.fixture(scope="module", params=RUNNABLE)
def vector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("vector") / f"{request.param}.so"
    source, include = Path(__file__).with_name("vector_probe.cc"), Path(__file__).parents[2] / "turbo_onnx"
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", f"-DTURBO_ISA={request.param}", *FLAGS[request.param]]
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, *flags, f"-I{include}", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.lanes.restype = ctypes.c_size_t
    loaded.sum.restype = loaded.largest.restype = ctypes.c_float
    return loaded


def pointer(array: Array) -> ctypes.c_void_p:
    assert array.dtype == np.float32
    return ctypes.c_void_p(array.ctypes.data)


def numbers() -> Array:
    small = np.logspace(-30, 0, 3000)
    parts = [np.linspace(-110, 95, 60_000), np.linspace(-6, 6, 60_000), small, -small, SPECIAL]
    return np.concatenate(parts).astype(np.float32)


def applied(vector: ctypes.CDLL, function: int, x: Array) -> Array:
    y = np.zeros_like(x)
    vector.apply(function, pointer(x), pointer(y), ctypes.c_size_t(len(x)))
    return y


def assert_within(actual: Array, exact: Array, ulps: float, smallest: float = float(np.finfo(np.float32).tiny)) -> None:
    """Relative error at most `ulps` units, and of nothing where the exact result is below `smallest`."""
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(exact))
    infinite = np.abs(exact) > float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(actual[infinite], np.sign(exact[infinite]) * np.inf)
    normal = np.isfinite(exact) & ~infinite & (np.abs(exact) >= smallest)
    assert np.max(np.abs(actual[normal] / exact[normal] - 1)) <= ulps * ULP
    tiny = np.abs(exact) < smallest
    assert np.all(np.abs(actual[tiny]) <= 2 * smallest)


@pytest.mark.parametrize("function", [0, 1])
def test_exp(vector: ctypes.CDLL, function: int) -> None:
    x = numbers()
    if function == 1:
        x = x[~(x > 88)]
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.exp(x.astype(np.float64))
    assert_within(applied(vector, function, x), exact, 0.8)


def test_exp_of_minus_infinity_and_of_very_small_numbers_is_zero(vector: ctypes.CDLL) -> None:
    x = np.array([-np.inf, -1e30, -200, -88], np.float32)
    assert not applied(vector, 0, x).any()
    assert not applied(vector, 1, x).any()


def test_erf(vector: ctypes.CDLL) -> None:
    x = numbers()
    actual, exact = applied(vector, 2, x), np.array([math.erf(v) for v in x.astype(np.float64)])
    assert_within(actual, exact, 1.0, smallest=1e-30)
    assert np.nanmax(np.abs(actual - exact)) <= 1e-7


def test_tanh(vector: ctypes.CDLL) -> None:
    x = numbers()
    actual, exact = applied(vector, 3, x), np.tanh(x.astype(np.float64))
    assert_within(actual, exact, 1.5, smallest=1e-30)
    assert np.nanmax(np.abs(actual - exact)) <= 1e-7


def test_sqrt(vector: ctypes.CDLL) -> None:
    x = np.abs(numbers())
    np.testing.assert_array_equal(applied(vector, 4, x), np.sqrt(x))


def test_reductions(vector: ctypes.CDLL) -> None:
    for place in range(vector.lanes()):
        x = np.arange(vector.lanes(), dtype=np.float32)
        x[place] = 100.0
        assert vector.sum(pointer(x)) == x.sum()
        assert vector.largest(pointer(x)) == 100.0
        assert vector.largest(pointer(-x)) == (0.0 if place else -1.0)


def test_transpose(vector: ctypes.CDLL) -> None:
    x = np.arange(vector.lanes() ** 2, dtype=np.float32).reshape(vector.lanes(), -1)
    y = np.zeros_like(x)
    vector.transposed(pointer(x), pointer(y))
    np.testing.assert_array_equal(y, x.T)


def test_sums_of_rows(vector: ctypes.CDLL) -> None:
    x = np.arange(vector.lanes() ** 2, dtype=np.float32).reshape(vector.lanes(), -1) ** 2
    y = np.zeros(vector.lanes(), np.float32)
    vector.row_sums(pointer(x), pointer(y))
    np.testing.assert_array_equal(y, x.sum(axis=1))


def test_two_vectors_lane_by_lane(vector: ctypes.CDLL) -> None:
    """Of a NaN and a number, min and max keep the second."""
    lanes = vector.lanes()
    a = np.resize(np.array([1, -2, np.nan, 5], np.float32), lanes)
    b = np.resize(np.array([-3, 4, 7, np.nan], np.float32), lanes)
    expected = ([-3, -2, 7, np.nan], [1, 4, 7, np.nan], [-3, -2, 7, np.nan], [-1, 2, np.nan, 5])
    for function, lane_values in enumerate(expected):
        y = np.zeros(lanes, np.float32)
        vector.combine(function, pointer(a), pointer(b), pointer(y))
        np.testing.assert_array_equal(y, np.resize(np.array(lane_values, np.float32), lanes))
