"""SegmentPooling where random uses do not reach: many rows, many sequences, special values, wrong inputs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel

MODES = ["mean", "sum", "max", "first"]

every_mode = pytest.mark.parametrize("mode", MODES)


def pooling(rows: Array, lengths: list[int], mode: str) -> Case:
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    return Case("SegmentPooling", [rows, starts], {"mode": mode})


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@every_mode
@pytest.mark.parametrize("width", [1, 3, 16, 127, 128, 129, 384])
def test_every_width_at_the_edges_of_blocks(width: int, mode: str) -> None:
    case = pooling(normal(104, width), [0, 1, 2, 64, 0, 37], mode)
    assert_equal(by_kernel(case), case.expected(), 1e-6)


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_sums_over_many_rows_stay_accurate(mode: str) -> None:
    case = pooling(np.abs(normal(50_000, 3)), [50_000], mode)
    np.testing.assert_allclose(by_kernel(case)[0], case.expected()[0], rtol=1e-6)


@every_mode
def test_many_sequences_most_of_them_empty(mode: str) -> None:
    lengths = [0] * 5000
    lengths[0], lengths[77], lengths[4999] = 1, 12, 3
    case = pooling(normal(16, 33), lengths, mode)
    assert_equal(by_kernel(case), case.expected(), 1e-6)


@every_mode
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_row_at_all(lengths: list[int], mode: str) -> None:
    case = pooling(normal(0, 5), lengths, mode)
    empty = np.full((len(lengths), 5), -np.inf if mode == "max" else 0.0, np.float32)
    np.testing.assert_array_equal(by_kernel(case)[0], empty)
    np.testing.assert_array_equal(by_definition(case)[0], empty)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_maximum_of_rows_with_nan_is_nan(place: int) -> None:
    rows = normal(3, 40)
    rows[place, 7] = np.nan
    (output,) = by_kernel(pooling(rows, [3], "max"))
    assert np.flatnonzero(np.isnan(output)).tolist() == [7]


def test_infinities_are_numbers_like_any_other() -> None:
    rows = np.array([[-np.inf, 1.0], [-np.inf, np.inf]], np.float32)
    np.testing.assert_array_equal(by_kernel(pooling(rows, [2], "max"))[0], [[-np.inf, np.inf]])
    np.testing.assert_array_equal(by_kernel(pooling(rows, [2], "mean"))[0], [[-np.inf, np.inf]])


@pytest.mark.parametrize(
    ("rows", "starts", "mode", "sentence"),
    [
        (normal(3, 4), [0, 2], "mean", "cu_seqlens must ascend from 0 to the 3 rows"),
        (normal(3, 4), [0, 5, 3], "mean", "cu_seqlens must ascend from 0 to the 3 rows"),
        (normal(3), [0, 3], "mean", "rows has shape [3], but must be a matrix"),
    ],
)
def test_refuses_inputs_that_do_not_fit(rows: Array, starts: list[int], mode: str, sentence: str) -> None:
    with pytest.raises(Exception, match="SegmentPooling") as error:
        by_kernel(Case("SegmentPooling", [rows, np.array(starts, np.int32)], {"mode": mode}))
    assert sentence in str(error.value)
