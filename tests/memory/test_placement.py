"""No order and no placement makes buffers overlap, and greedy placements come near the lower bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.runs import layered_run, sized, triples
from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up
from turbo_onnx.memory.placement import greedy_placements, peaks, place, settled, stack, stacking_order
from turbo_onnx.memory.validator import validate_order, validate_placement

Case = tuple[Lifetimes, IntArray]


@given(sized(), st.randoms(use_true_random=False), st.sampled_from([1, 64]))
def test_no_order_makes_buffers_overlap(case: Case, random: object, alignment: int) -> None:
    lifetimes, sizes = case
    order = list(range(len(lifetimes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    offsets = stack(lifetimes, order, sizes, alignment)
    validate_placement(triples(lifetimes, sizes), offsets.tolist(), alignment)
    rounded = rounded_up(sizes, alignment)
    needed = validate_order(triples(lifetimes, rounded), order, alignment)
    assert max(needed, int(offsets.max())) == peaks(lifetimes, order, sizes, alignment)


def test_many_shapes_at_once_stack_as_each_does_alone() -> None:
    generator = np.random.default_rng(0)
    lifetimes = layered_run(0, 8)
    sizes = generator.integers(0, 10**6, (3, 4, len(lifetimes)))
    order = generator.permutation(len(lifetimes))
    offsets = stack(lifetimes, order, sizes)
    assert offsets.shape == sizes.shape
    for index in np.ndindex(3, 4):
        assert offsets[index].tolist() == stack(lifetimes, order, sizes[index]).tolist()


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="each of them once"):
        stack(Lifetimes.of([(0, 1), (0, 2), (1, 2)]), order, np.array([1, 2, 3]))


@given(sized(), st.sampled_from([1, 64]))
def test_every_greedy_placement_is_safe(case: Case, alignment: int) -> None:
    lifetimes, sizes = case
    for offsets in greedy_placements(lifetimes, sizes, alignment):
        validate_placement(triples(lifetimes, rounded_up(sizes, alignment)), offsets, alignment)


@given(sized(smallest=1))
def test_stacking_by_the_order_of_a_placement_needs_no_more(case: Case) -> None:
    lifetimes, sizes = case
    for offsets in greedy_placements(lifetimes, sizes):
        stacked = settled(lifetimes, stacking_order(offsets), sizes)
        assert stacked.peak <= int((np.array(offsets) + rounded_up(sizes, 64)).max())


@given(sized(), st.sampled_from([1, 64]))
def test_placing_is_safe_at_least_the_bound_and_the_same_again(case: Case, alignment: int) -> None:
    lifetimes, sizes = case
    placement = place(lifetimes, sizes, alignment)
    rounded = rounded_up(sizes, alignment)
    needed = validate_placement(triples(lifetimes, rounded), placement.offsets, alignment)
    assert needed <= placement.peak
    assert placement.peak >= lifetimes.lower_bound(sizes, alignment)
    assert place(lifetimes, sizes, alignment) == placement


def test_runs_of_encoders_need_no_more_than_the_bound() -> None:
    for seed in range(10):
        lifetimes = layered_run(seed, 12)
        kinds = np.array([768, 3072, 48 * 128, 768, 64])
        sizes = 4 * 100 * kinds[np.random.default_rng(seed).integers(0, 5, len(lifetimes))]
        assert place(lifetimes, sizes).peak <= 1.02 * lifetimes.lower_bound(sizes, 64)


def test_nothing_needs_nothing() -> None:
    assert place(Lifetimes.from_events([]), np.zeros(0, np.int64)).peak == 0
