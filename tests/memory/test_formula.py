"""A formula is found from sizes at some shapes, and gives the right sizes at all others."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbo_onnx.memory.formula import Formula, IntArray, fit, fit_all, monomials

B, S, T = (1, 0, 0), (0, 1, 0), (0, 0, 1)
ONE, BS, BSS = (0, 0, 0), (1, 1, 0), (1, 2, 0)


def ragged_shapes(count: int = 40, seed: int = 0) -> IntArray:
    """Shapes [count, 3] of batch, sequence, and tokens where some are padding."""
    generator = np.random.default_rng(seed)
    batch = generator.integers(1, 33, count)
    sequence = generator.integers(1, 513, count)
    tokens = generator.integers(batch, batch * sequence + 1)
    return np.stack([batch, sequence, tokens], axis=1)


FORMULAS = st.lists(st.tuples(st.sampled_from(monomials(3)), st.integers(-(10**6), 10**7)), min_size=0, max_size=6).map(
    Formula.of
)


@given(FORMULAS, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_what_gave_the_sizes_is_found_again(formula: Formula, seed: int) -> None:
    shapes = ragged_shapes(seed=seed)
    assert fit(shapes, formula.evaluate_many(shapes)) == formula


@given(FORMULAS)
def test_many_shapes_at_once_give_what_each_gives_alone(formula: Formula) -> None:
    shapes = ragged_shapes(7)
    assert formula.evaluate_many(shapes).tolist() == [formula.evaluate(shape.tolist()) for shape in shapes]


def test_values_beyond_64_bits_are_exact_one_at_a_time() -> None:
    assert Formula.of([(BSS, 10**9)]).evaluate([10**6, 10**6, 1]) == 10**27


def test_terms_are_added_up_and_those_that_vanish_are_left_out() -> None:
    formula = Formula.of([(ONE, 3), (BS, 5), (ONE, -3), (BS, 2), (BSS, 1)])
    assert formula.terms == ((BSS, 1), (BS, 7))
    assert Formula.constant(0, 3) == Formula(())


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ([(BS, 4), (ONE, 64)], "4·B·S + 64"),
        ([(BSS, 48), (T, -1)], "48·B·S² - T"),
        ([(T, -3072)], "-3072·T"),
        ([(B, 1)], "B"),
        ([(ONE, 1)], "1"),
        ([], "0"),
    ],
)
def test_text_reads_like_mathematics(terms: list[tuple[tuple[int, ...], int]], text: str) -> None:
    assert Formula.of(terms).text(["B", "S", "T"]) == text


def test_sizes_that_are_no_polynomial_have_no_formula() -> None:
    shapes = ragged_shapes()
    sizes = 4 * shapes[:, 0] * shapes[:, 1]
    rounded_up = -(-sizes // 64) * 64
    assert fit(shapes, rounded_up) is None
    one_is_off = sizes.copy()
    one_is_off[17] += 1
    assert fit(shapes, one_is_off) is None


def test_halves_are_not_rounded() -> None:
    shapes = np.array([[2 * n, m] for n in range(1, 5) for m in range(1, 6)])
    assert fit(shapes, shapes[:, 0] * shapes[:, 1] // 2) is None


def test_variables_that_were_always_equal_count_as_the_first() -> None:
    shapes = np.array([[b, b, s] for b in range(1, 5) for s in (8, 16, 24, 56)])
    found = fit(shapes, 4 * shapes[:, 1] * shapes[:, 2])
    assert found == Formula.of([((1, 0, 1), 4)])


def test_tokens_without_any_padding_count_as_a_variable_not_as_a_product() -> None:
    shapes = np.array([[b, s, b * s] for b in range(1, 6) for s in (3, 8, 16, 21, 56)])
    found = fit(shapes, 3072 * shapes[:, 2] + 48 * shapes[:, 0] * shapes[:, 1] ** 2)
    assert found is not None
    assert (
        found.evaluate_many(shapes).tolist() == (3072 * shapes[:, 2] + 48 * shapes[:, 0] * shapes[:, 1] ** 2).tolist()
    )
    assert dict(found.terms)[T] == 3072


def test_few_samples_are_enough_for_a_formula_of_few_terms() -> None:
    shapes = ragged_shapes(6)
    for formula in (Formula.constant(128, 3), Formula.of([(T, 3072)]), Formula.of([(BSS, 48), (T, 3072), (ONE, 8)])):
        assert fit(shapes, formula.evaluate_many(shapes)) == formula


def test_no_guess_is_made_where_several_formulas_of_few_terms_fit() -> None:
    shapes = np.array([[2, 3, 6], [2, 5, 10], [2, 7, 14]])
    assert fit(shapes, 8 * shapes[:, 1]) is None  # 8·S, 4·T


def test_nothing_is_known_from_a_single_shape() -> None:
    assert fit(np.array([[2, 3, 6]]), np.array([96])) is None
    assert fit(np.array([[2, 3, 6]] * 30), np.full(30, 96)) is None


def test_a_size_that_differs_at_the_same_shape_has_no_formula() -> None:
    shapes = np.concatenate([ragged_shapes(), ragged_shapes()])
    sizes = np.stack([4 * shapes[:, 2], 8 * shapes[:, 2]], axis=1)
    sizes[50, 0] += 4
    assert fit_all(shapes, sizes) == [None, Formula.of([(T, 8)])]


def test_one_variable() -> None:
    lengths = np.arange(1, 8)[:, None]
    assert fit(lengths, 12 * lengths[:, 0] ** 2 + 5) == Formula.of([((2,), 12), ((0,), 5)])


def test_without_variables_every_size_is_a_constant() -> None:
    assert fit_all(np.zeros((3, 0), np.int64), np.array([[7, 1], [7, 2], [7, 1]])) == [Formula((((), 7),)), None]


def test_a_whole_model_is_a_matter_of_milliseconds() -> None:
    shapes = ragged_shapes(40)
    kinds = [Formula.of([(T, 4 * 768 * k), (ONE, k), (BSS, k % 3)]) for k in range(20)]
    sizes = np.stack([kinds[number % 20].evaluate_many(shapes) for number in range(400)], axis=1)
    start = time.process_time()
    found = fit_all(shapes, sizes)
    assert time.process_time() - start < 1.0  # it takes 10 ms
    assert found == [kinds[number % 20] for number in range(400)]


def test_many_variables_and_few_samples_find_what_is_sparse() -> None:
    generator = np.random.default_rng(1)
    shapes = generator.integers(1, 200, (40, 6))
    sizes = 4 * shapes[:, 1] * shapes[:, 3] * 768 + 12 * shapes[:, 5]
    found = fit(shapes, sizes)
    assert found == Formula.of([((0, 1, 0, 1, 0, 0), 3072), ((0, 0, 0, 0, 0, 1), 12)])
