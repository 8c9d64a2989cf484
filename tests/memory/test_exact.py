"""Exact placement finds the optimum, proves it, and says what to install where the solver is missing."""

from __future__ import annotations

import sys
from itertools import permutations

import numpy as np
import pytest

from tests.memory.runs import triples
from turbo_onnx.errors import InputError
from turbo_onnx.memory.exact import place_exactly
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up
from turbo_onnx.memory.minimalloc import generate
from turbo_onnx.memory.placement import peaks, place
from turbo_onnx.memory.validator import validate_placement


def needs_solver() -> None:
    pytest.importorskip("ortools", reason="OR-tools is not installed")


def random_case(seed: int, count: int) -> tuple[Lifetimes, np.ndarray]:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 12, count)
    return Lifetimes(first, first + generator.integers(1, 9, count)), generator.integers(0, 7, count) * 100


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_a_few_buffers_is_better(seed: int) -> None:
    needs_solver()
    lifetimes, sizes = random_case(seed, 6)
    best = min(int(peaks(lifetimes, order, sizes)) for order in permutations(range(6)))
    found = place_exactly(lifetimes, sizes)
    assert found.optimal
    assert found.placement.peak == found.bound == best


def test_a_bound_that_cannot_be_met_is_proven_to_be_out_of_reach() -> None:
    needs_solver()
    first = [14, 6, 5, 8, 0, 8, 0, 7, 2, 6, 3, 14, 2, 12, 10, 8, 11, 9, 12, 4, 7, 1]
    last = [16, 7, 10, 10, 8, 16, 2, 13, 11, 8, 12, 16, 13, 16, 12, 14, 16, 14, 16, 9, 15, 13]
    lifetimes = Lifetimes.of(zip(first, last, strict=True))
    sizes = np.array([6, 7, 6, 1, 4, 6, 3, 5, 1, 5, 5, 2, 1, 1, 4, 2, 5, 2, 7, 3, 5, 4]) * 64
    assert lifetimes.lower_bound(sizes, 64) == 39 * 64
    found = place_exactly(lifetimes, sizes)
    assert found.optimal
    assert found.bound == 40 * 64


def test_an_effort_that_is_too_small_leaves_a_gap_and_says_so() -> None:
    needs_solver()
    instance = generate(0, 200)
    found = place_exactly(instance.lifetimes, instance.sizes, 1024, effort=0.01)
    assert not found.optimal
    assert found.bound < found.placement.peak <= place(instance.lifetimes, instance.sizes, 1024).peak


@pytest.mark.parametrize("seed", range(3))
def test_it_is_safe_and_no_worse_than_the_greedy_placement(seed: int) -> None:
    needs_solver()
    instance = generate(seed, 40)
    lifetimes, sizes = instance.lifetimes, instance.sizes
    found = place_exactly(lifetimes, sizes, 1024, effort=2.0)
    placed = triples(lifetimes, rounded_up(sizes, 1024))
    assert validate_placement(placed, found.placement.offsets, 1024) == found.placement.peak
    assert 2**20 <= found.bound <= found.placement.peak <= place(lifetimes, sizes, 1024).peak
    assert place_exactly(lifetimes, sizes, 1024, effort=2.0) == found


def test_without_the_solver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(InputError, match=r"pip install 'turbo-onnx\[exact\]'"):
        place_exactly(Lifetimes.of([(0, 1)]), np.array([64]))
