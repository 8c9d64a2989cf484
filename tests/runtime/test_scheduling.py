"""Batches that are done soonest: compared with every other way to divide the same requests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbo_onnx.errors import InputError
from turbo_onnx.runtime import CostModel, schedule

QUICK = settings(max_examples=150, deadline=None, derandomize=True)
PRICES = st.tuples(*(st.sampled_from([0.0, small, 30 * small]) for small in (20.0, 0.1, 1e-3, 0.1, 1e-3)))


def divisions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every way to divide a list into groups."""
    if not items:
        yield []
        return
    for division in divisions(items[1:]):
        yield [[items[0]], *division]
        for place, group in enumerate(division):
            yield [*division[:place], [items[0], *group], *division[place + 1 :]]


def total(batches: list[list[int]], lengths: list[int], cost: CostModel) -> float:
    return sum(cost.milliseconds([lengths[place] for place in batch]) for batch in batches)


@QUICK
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), PRICES)
def test_no_other_division_is_done_sooner(lengths, prices):
    cost = CostModel(np.array(prices))
    best = min(total(division, lengths, cost) for division in divisions(list(range(len(lengths)))))
    assert total(schedule(lengths, cost), lengths, cost) == pytest.approx(best, abs=1e-9)


@QUICK
@given(st.lists(st.integers(1, 300), max_size=60), PRICES, st.sampled_from([None, 1, 3, 100]))
def test_every_request_is_in_one_batch_and_batches_are_in_the_order_of_lengths(lengths, prices, most):
    batches = schedule(lengths, CostModel(np.array(prices)), most_sequences=most)
    places = [place for batch in batches for place in batch]
    assert sorted(places) == list(range(len(lengths)))
    assert [lengths[place] for place in places] == sorted(lengths)
    assert all(batch for batch in batches)
    assert most is None or all(len(batch) <= most for batch in batches)


@QUICK
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), PRICES, st.floats(0.5, 200.0))
def test_only_what_alone_takes_longer_goes_beyond_the_time_that_a_batch_may_take(lengths, prices, most):
    cost = CostModel(np.array(prices))
    for batch in schedule(lengths, cost, most_milliseconds=most):
        assert len(batch) == 1 or cost.milliseconds([lengths[place] for place in batch]) <= most * (1 + 1e-9)


@QUICK
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 2000))
def test_only_what_alone_is_too_large_goes_beyond_what_fits(lengths, budget):
    def fits(batch: int, length: int, tokens: int) -> bool:
        assert length <= tokens <= batch * length
        return batch * length <= budget

    cost = CostModel(np.array([5.0, 1.0, 0.0, 0.0, 0.0]))
    for batch in schedule(lengths, cost, fits=fits):
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget


def test_where_padding_costs_nothing_all_is_one_batch():
    packed = CostModel(np.array([3.0, 0.1, 1e-4, 0.0, 0.0]))
    assert len(schedule([5, 500, 7, 300], packed)) == 1


def test_where_padding_costs_much_lengths_are_kept_apart():
    padded = CostModel(np.array([3.0, 0.0, 0.0, 0.1, 0.0]))
    assert schedule([500, 5, 490, 6], padded) == [[1, 3], [2, 0]]


def test_equal_lengths_keep_the_order_in_which_they_came():
    assert schedule([7, 7, 7], CostModel(np.array([1.0, 0, 0, 0, 0]))) == [[0, 1, 2]]


def test_no_requests_make_no_batches():
    assert schedule([], CostModel(np.ones(5))) == []


def test_a_thousand_requests_are_scheduled():
    lengths = np.random.default_rng(0).integers(1, 512, 1000)
    batches = schedule(lengths, CostModel(np.array([5.0, 0.0, 0.0, 0.05, 1e-4])), most_sequences=64)
    assert sorted(place for batch in batches for place in batch) == list(range(1000))


@pytest.mark.parametrize("limit", [{"most_sequences": 0}, {"most_milliseconds": 0.0}, {"most_milliseconds": math.nan}])
def test_limits_must_be_positive(limit):
    with pytest.raises(InputError, match="limits of a batch must be positive"):
        schedule([1], CostModel(np.ones(5)), **limit)


@pytest.mark.parametrize("most", [2.5, math.inf])
def test_a_batch_has_a_whole_number_of_sequences(most):
    with pytest.raises(InputError, match="whole number of sequences"):
        schedule([1, 2], CostModel(np.ones(5)), most_sequences=most)


def test_lengths_must_be_positive_integers():
    with pytest.raises(InputError, match="positive integers"):
        schedule([3, 0], CostModel(np.ones(5)))
