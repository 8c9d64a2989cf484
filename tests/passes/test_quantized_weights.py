"""Weights in 8 bits: near what they were, and of sizes that no processor's 16-bit sums of pairs are too small for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.passes.support import normal
from turbo_onnx.passes.quantized_weights import quantized

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EVEN = st.sampled_from([-1.0, 1.0, 0.0, 0.5, 63.5, 64.0, 64.5, 127.0, -63.5])  # of which many pairs end halfway


@st.composite
def weights(draw) -> np.ndarray:
    """[K, N] of any size from 1, of any finite numbers, of few, or normal; some columns of zeros."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["any", "few", "normal"]))
    if kind == "normal":
        made = normal(rows, columns, seed=draw(st.integers(0, 999))) * draw(st.sampled_from([1e-40, 1e-3, 1.0, 1e30]))
    else:
        numbers = st.lists(FLOATS if kind == "any" else EVEN, min_size=rows * columns, max_size=rows * columns)
        made = np.array(draw(numbers)).reshape(rows, columns)
    made = made * np.array(draw(st.lists(st.booleans(), min_size=columns, max_size=columns)))
    return made.astype(np.float32)


def side_by_side(integers: np.ndarray) -> np.ndarray:
    """The pairs of rows that processors add up first: [K / 2, 2, N], with a row of zeros behind an odd number."""
    wide = integers.astype(np.int32)
    even = np.concatenate([wide, np.zeros((len(wide) % 2, wide.shape[1]), np.int32)])
    return even.reshape(-1, 2, wide.shape[1])


def by_saturating_pairs(rows: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """rows @ integers as `vpmaddubsw` and `vpmaddwd` compute it: pairs are added in 16 bits, which saturate."""
    pairs = side_by_side(integers)
    padded = np.concatenate([rows, np.zeros((len(rows), len(integers) % 2), rows.dtype)], axis=1).astype(np.int32)
    sums = np.einsum("bpi,pin->bpn", padded.reshape(len(rows), -1, 2), pairs)
    saturated: np.ndarray = np.clip(sums, -(2**15), 2**15 - 1).sum(axis=1)
    return saturated


@QUICK
@given(weights())
def test_integers_times_scales_are_within_half_a_step_of_the_weight(weight: np.ndarray) -> None:
    made = quantized(weight)
    assert (made.integers.dtype, made.scale.dtype, made.column_sums.dtype) == (np.int8, np.float32, np.int32)
    assert made.scale.shape == made.column_sums.shape == weight.shape[1:]
    assert np.isfinite(made.scale).all()
    assert (made.scale > 0).all()
    scale = made.scale.astype(np.float64)
    assert (np.abs(made.integers * scale - weight) <= (0.5 + 1e-4) * scale).all()


@QUICK
@given(weights())
def test_no_two_neighbours_of_one_sign_come_to_more_than_128(weight: np.ndarray) -> None:
    pairs = side_by_side(quantized(weight).integers)
    for sign in (1, -1):
        assert np.maximum(sign * pairs, 0).sum(axis=1).max() <= 128


@QUICK
@given(weights(), st.integers(0, 99))
def test_products_with_bytes_do_not_saturate(weight: np.ndarray, seed: int) -> None:
    integers = quantized(weight).integers
    random = np.random.default_rng(seed).integers(0, 256, (4, len(weight)))
    ends = np.random.default_rng(seed).choice([0, 255], (4, len(weight)))
    rows = np.concatenate([np.full((1, len(weight)), 255), random, ends]).astype(np.uint8)
    np.testing.assert_array_equal(by_saturating_pairs(rows, integers), rows.astype(np.int64) @ integers)


def test_the_emulation_saturates_where_a_weight_takes_all_of_its_range() -> None:
    full = np.full((2, 1), 127, np.int8)
    assert by_saturating_pairs(np.full((1, 2), 255, np.uint8), full) == 2**15 - 1


@QUICK
@given(weights())
def test_sums_are_those_of_the_integers_of_a_column(weight: np.ndarray) -> None:
    made = quantized(weight)
    np.testing.assert_array_equal(made.column_sums, made.integers.astype(np.int64).sum(axis=0))


@pytest.mark.parametrize(
    ("column", "integers"),
    [
        ([1.0], [127]),
        ([-1.0], [-127]),
        ([1.0, 1.0], [64, 64]),  # halfway between two, both to the even one
        ([1.0, -1.0], [127, -127]),
        ([-1.0, -1.0], [-64, -64]),
        ([0.0, 1.0, 1.0, 0.0], [0, 127, 127, 0]),  # neighbours, but of two pairs
        ([0.5, 0.5, 1.0], [64, 64, 127]),
        ([1.0, 1.0, 2.0], [64, 64, 127]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([3.0, 1.0, -2.0, -2.0], [95, 32, -64, -64]),
    ],
)
def test_a_column_is_as_large_as_its_largest_pair_of_one_sign_allows(column: list[float], integers: list[int]) -> None:
    made = quantized(np.array(column, np.float32)[:, None])
    assert made.integers[:, 0].tolist() == integers


def test_a_usual_weight_keeps_more_than_half_of_its_range() -> None:
    largest = np.abs(quantized(normal(768, 200)).integers.astype(np.int32)).max(axis=0)
    assert largest.min() > 127 / 2
    assert largest.mean() > 127 * 0.7


def test_columns_have_scales_of_their_own() -> None:
    weight = normal(64, 3) * np.float32([1e-6, 1.0, 1e6])
    made = quantized(weight)
    alone = [quantized(weight[:, [n]]) for n in range(3)]
    np.testing.assert_array_equal(made.integers, np.concatenate([one.integers for one in alone], axis=1))
    np.testing.assert_array_equal(made.scale, np.concatenate([one.scale for one in alone]))


@pytest.mark.parametrize("size", [3e38, 1e-38, 2.6e-43, 1e-45])
def test_numbers_at_the_ends_of_their_type_have_a_scale_that_is_no_denormal(size: float) -> None:
    made = quantized(np.full((4, 2), size, np.float32))
    assert np.isfinite(made.scale).all()
    assert (made.scale >= np.finfo(np.float32).tiny).all()
    assert set(made.integers.ravel().tolist()) <= ({63, 64} if size > 1 else {0})


@pytest.mark.parametrize("columns", [1, 512, 513, 1100])
def test_a_column_of_many_is_what_it_is_alone(columns: int) -> None:
    weight = normal(7, columns) * np.geomspace(1e-3, 1e3, columns, dtype=np.float32)
    made, flipped = quantized(weight), quantized(np.ascontiguousarray(weight.T).T)
    assert made.integers.shape == weight.shape
    for column in {0, columns // 2, min(512, columns - 1), columns - 1}:
        alone = quantized(weight[:, [column]])
        np.testing.assert_array_equal(made.integers[:, [column]], alone.integers)
        assert (made.scale[column], made.column_sums[column]) == (alone.scale[0], alone.column_sums[0])
    for one, other in ((made.integers, flipped.integers), (made.scale, flipped.scale)):
        np.testing.assert_array_equal(one, other)
