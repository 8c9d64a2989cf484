"""A few orders are near the lower bound at all shapes, also at those that were not looked at, and safe at all."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.runs import KINDS, LIFETIMES, B, T, drawn_formulas, layered_run, ragged_shapes, triples
from turbo_onnx.errors import InputError
from turbo_onnx.memory.formula import Formula, IntArray
from turbo_onnx.memory.lifetimes import Lifetimes
from turbo_onnx.memory.minimalloc import generate
from turbo_onnx.memory.placement import stack
from turbo_onnx.memory.regions import MOST_ORDERS, OrderPlan, plan_orders
from turbo_onnx.memory.validator import validate_order, validate_placement

SAMPLES = ragged_shapes(250, seed=0)
UNSEEN = ragged_shapes(250, seed=1)


def sizes_at(formulas: list[Formula], shapes: IntArray) -> IntArray:
    return np.stack([formula.evaluate_many(shapes) for formula in formulas], axis=1)


def multiples(plan: OrderPlan, lifetimes: Lifetimes, formulas: list[Formula], shapes: IntArray) -> list[float]:
    """What runs of these shapes need, in multiples of the lower bound."""
    sizes = sizes_at(formulas, shapes)
    needed: list[float] = (plan.peaks(lifetimes, sizes) / lifetimes.lower_bound(sizes, 64)).tolist()
    return needed


def test_a_packed_encoder_has_one_order_that_meets_the_bound_everywhere_in_less_than_a_second() -> None:
    lifetimes = layered_run(0, 36)
    packed = tuple(kind for kind in KINDS if kind.terms[0][0] in (T, B))
    formulas = drawn_formulas(0, len(lifetimes), packed)
    start = time.process_time()
    plan = plan_orders(lifetimes, formulas, SAMPLES)
    assert time.process_time() - start < 3.0  # it takes 0.1 s
    assert len(plan.orders) <= 2
    assert max(multiples(plan, lifetimes, formulas, UNSEEN)) < 1.005


def test_sizes_in_one_proportion_need_one_order_and_no_tree() -> None:
    lifetimes = layered_run(1, 20)
    formulas = drawn_formulas(1, len(lifetimes), KINDS[:3])
    plan = plan_orders(lifetimes, formulas, SAMPLES)
    assert len(plan.orders) == 1
    assert plan.tree == ()
    assert max(multiples(plan, lifetimes, formulas, UNSEEN)) == 1.0


def test_sizes_that_cross_are_told_apart_by_comparing_them() -> None:
    # Of a, b, c and d, which overlap in a chain, it is the larger of b and c that has to lie at the bottom.
    lifetimes = Lifetimes.of([(0, 2), (1, 4), (3, 6), (5, 8), (0, 4), (3, 8)])
    tokens, scores = Formula.of([(T, 3072)]), Formula.of([((1, 2, 0), 48)])
    formulas = [scores, tokens, scores, tokens, tokens, scores]
    plan = plan_orders(lifetimes, formulas, SAMPLES)
    assert max(multiples(plan, lifetimes, formulas, UNSEEN)) < 1.01


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layers", [3, 12])
def test_mixed_kinds_of_sizes_are_near_the_bound(seed: int, layers: int) -> None:
    lifetimes = layered_run(seed, layers)
    formulas = drawn_formulas(seed, len(lifetimes))
    samples = ragged_shapes(500, seed=2)
    plan = plan_orders(lifetimes, formulas, samples)
    assert max(multiples(plan, lifetimes, formulas, samples)) < 1.05
    assert np.mean(multiples(plan, lifetimes, formulas, UNSEEN)) < 1.005


@given(LIFETIMES, st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_every_plan_is_well_formed_safe_and_made_the_same_way_again(lifetimes: Lifetimes, seed: int) -> None:
    formulas = drawn_formulas(seed, len(lifetimes))
    plan = plan_orders(lifetimes, formulas, SAMPLES[:40])
    assert plan_orders(lifetimes, formulas, SAMPLES[:40]) == plan
    assert 1 <= len(plan.orders) <= MOST_ORDERS
    targets = [target for node in plan.tree for target in node[2:]]
    assert all(target > number for number, node in enumerate(plan.tree) for target in node[2:] if target >= 0)
    assert sorted(target for target in targets if target >= 0) == list(range(1, len(plan.tree)))
    assert {-(target + 1) for target in targets if target < 0} | {0} == set(range(len(plan.orders)))
    for sizes in sizes_at(formulas, UNSEEN[:10]):
        order = plan.orders[plan.choose(sizes)]
        assert validate_order(triples(lifetimes, sizes), order, 64) >= 0
        validate_placement(triples(lifetimes, sizes), stack(lifetimes, order, sizes, 64).tolist(), 64)


def test_the_choice_follows_the_tree() -> None:
    plan = OrderPlan(((0, 1), (1, 0)), ((0, 1, -1, 1), (1, 0, -2, -1)))
    assert plan.choose(np.array([5, 5])) == 0
    assert plan.choose(np.array([6, 5])) == 1


def test_no_buffers_and_no_shapes_have_a_plan_too() -> None:
    assert plan_orders(Lifetimes.from_events([]), [], SAMPLES) == OrderPlan(((),))
    none = np.zeros((0, 3), np.int64)
    assert plan_orders(Lifetimes.of([(0, 1), (0, 2)]), list(KINDS[:2]), none) == OrderPlan(((0, 1),))


def test_a_fixed_shape_is_one_sample_without_variables() -> None:
    lifetimes = layered_run(3, 8)
    formulas = [Formula.constant(int(size), 0) for size in np.random.default_rng(0).integers(0, 10**6, len(lifetimes))]
    plan = plan_orders(lifetimes, formulas, np.zeros((1, 0), np.int64))
    assert len(plan.orders) == 1
    assert max(multiples(plan, lifetimes, formulas, np.zeros((1, 0), np.int64))) < 1.1


def test_a_formula_is_needed_for_each_buffer() -> None:
    with pytest.raises(ValueError, match="2 buffers have 1 formulas"):
        plan_orders(Lifetimes.of([(0, 1), (0, 2)]), [Formula.constant(1, 3)], SAMPLES)


def test_the_solver_is_asked_where_the_search_is_above_the_bound() -> None:
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    instance = generate(3, 40)
    formulas = [Formula.constant(int(size), 0) for size in instance.sizes]
    fixed = np.zeros((1, 0), np.int64)
    quick, exact = (plan_orders(instance.lifetimes, formulas, fixed, exact=exact) for exact in (False, True))
    assert max(multiples(quick, instance.lifetimes, formulas, fixed)) > 1.0
    assert max(multiples(exact, instance.lifetimes, formulas, fixed)) == 1.0
    assert exact == plan_orders(instance.lifetimes, formulas, fixed, exact=True)


def test_exact_without_the_solver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(InputError, match="OR-tools"):
        plan_orders(Lifetimes.of([(0, 1)]), list(KINDS[:1]), SAMPLES, exact=True)
