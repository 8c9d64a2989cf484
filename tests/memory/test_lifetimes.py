"""Lifetimes say who is alive together with whom, and how many bytes are alive at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.runs import LIFETIMES, layered_run, sized
from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes


def test_events_are_allocations_in_order_and_frees_by_number() -> None:
    lifetimes = Lifetimes.from_events([0, 0, 1, 0, 3])
    assert lifetimes.first.tolist() == [0, 1, 3]
    assert lifetimes.last.tolist() == [2, 5, 4]  # the second is never freed
    assert lifetimes.conflicts == [[1], [0, 2], [1]]


@pytest.mark.parametrize("events", [[1], [0, 2], [0, 1, 1], [0, -1]])
def test_a_free_of_what_is_not_alive_is_refused(events: list[int]) -> None:
    with pytest.raises(ValueError, match="not alive"):
        Lifetimes.from_events(events)


def test_an_empty_lifetime_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer 1 is freed at 3, not after 3"):
        Lifetimes.of([(0, 1), (3, 3)])


@given(LIFETIMES)
def test_conflicts_are_those_who_are_alive_together(lifetimes: Lifetimes) -> None:
    alive = [set(range(first, last)) for first, last in zip(lifetimes.first, lifetimes.last, strict=True)]
    expected = [[b for b in range(len(alive)) if b != a and alive[a] & alive[b]] for a in range(len(alive))]
    assert lifetimes.conflicts == expected


@given(LIFETIMES)
def test_slots_keep_who_is_alive_together(lifetimes: Lifetimes) -> None:
    assert Lifetimes(*lifetimes.slots).conflicts == lifetimes.conflicts


@given(sized(), st.sampled_from([1, 64]))
def test_the_bound_is_the_most_that_is_alive_at_once(case: tuple[Lifetimes, IntArray], alignment: int) -> None:
    lifetimes, sizes = case
    rounded = [-(-int(size) // alignment) * alignment for size in sizes]
    moments = range(int(lifetimes.last.max()))
    alive = [
        sum(s for s, a, b in zip(rounded, lifetimes.first, lifetimes.last, strict=True) if a <= moment < b)
        for moment in moments
    ]
    assert lifetimes.lower_bound(sizes, alignment) == max(alive)


def test_bounds_of_many_shapes_at_once_are_those_of_each() -> None:
    lifetimes = layered_run(0, 6)
    sizes = np.random.default_rng(1).integers(0, 10**6, (2, 5, len(lifetimes)))
    bounds = lifetimes.lower_bound(sizes, 64)
    assert bounds.shape == (2, 5)
    assert bounds[1, 3] == lifetimes.lower_bound(sizes[1, 3], 64)


def test_a_subset_is_numbered_as_it_is_given() -> None:
    chosen = Lifetimes.of([(0, 4), (1, 2), (3, 5)]).subset([2, 0])
    assert chosen.first.tolist() == [3, 0]
    assert chosen.conflicts == [[1], [0]]


def test_nothing_needs_nothing() -> None:
    nothing = Lifetimes.from_events([])
    assert nothing.conflicts == []
    assert nothing.lower_bound(np.zeros((3, 0), np.int64), 64).tolist() == [0, 0, 0]
