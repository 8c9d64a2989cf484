"""SegmentPooling on CUDA: lengths and widths at the edges of blocks, special values, bounds that are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import by_device
from tests.custom_ops.single_node import Array, Case, assert_equal
from tests.custom_ops.test_segment_pooling import MODES, every_mode, normal, pooling


class CaseOnDevice(Case):
    """A use whose cu_seqlens may be anything: what it gives is not defined, but its shape is."""

    def expected(self) -> list[Array]:
        rows, cu_seqlens = self.inputs
        return [np.zeros((len(cu_seqlens) - 1, rows.shape[1]), rows.dtype)]


@every_mode
@pytest.mark.parametrize("width", [1, 3, 31, 32, 33, 129, 384])
def test_every_width_and_length_at_the_edges_of_blocks(width: int, mode: str) -> None:
    lengths = [0, 1, 63, 64, 65, 0, 255, 256, 257]
    case = pooling(normal(sum(lengths), width), lengths, mode)
    assert_equal(by_device(case), case.expected(), 1e-6)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_half_precision_is_added_up_in_float32(mode: str, element: str) -> None:
    rows = np.full((3000, 2), 0.125, np.float32)
    (output,) = by_device(pooling(rows, [3000], mode), element)
    np.testing.assert_allclose(output, [[0.125 if mode == "mean" else 375] * 2], rtol=4e-3)


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_sums_over_many_rows_stay_accurate(mode: str) -> None:
    case = pooling(np.abs(normal(50_000, 3)), [50_000], mode)
    np.testing.assert_allclose(by_device(case)[0], case.expected()[0], rtol=1e-6)


@every_mode
def test_many_sequences_most_of_them_empty(mode: str) -> None:
    lengths = [0] * 200
    lengths[0], lengths[77], lengths[199] = 1, 12, 3
    case = pooling(normal(16, 33), lengths, mode)
    assert_equal(by_device(case), case.expected(), 1e-6)


@every_mode
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_row_at_all(lengths: list[int], mode: str) -> None:
    empty = np.full((len(lengths), 5), -np.inf if mode == "max" else 0.0, np.float32)
    np.testing.assert_array_equal(by_device(pooling(normal(0, 5), lengths, mode))[0], empty)


@pytest.mark.parametrize("place", [0, 1, 299])
def test_the_maximum_of_rows_with_nan_is_nan(place: int) -> None:
    rows = normal(300, 40)
    rows[place, 7] = np.nan
    (output,) = by_device(pooling(rows, [300], "max"))
    assert np.flatnonzero(np.isnan(output)).tolist() == [7]
    np.testing.assert_array_equal(np.delete(output, 7, axis=1), np.delete(rows.max(axis=0, keepdims=True), 7, axis=1))


def test_infinities_are_numbers_like_any_other() -> None:
    rows = np.array([[-np.inf, 1.0], [-np.inf, np.inf]], np.float32)
    for mode in ("max", "mean"):
        np.testing.assert_array_equal(by_device(pooling(rows, [2], mode))[0], [[-np.inf, np.inf]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("starts", [[-7, 2, 900], [3, 0, 2], [2**31 - 1, -(2**31), 2**31 - 1]])
def test_bounds_that_are_wrong_touch_nothing_outside(starts: list[int], mode: str) -> None:
    rows = np.ones((3, 4), np.float32)
    (output,) = by_device(CaseOnDevice("SegmentPooling", [rows, np.array(starts, np.int32)], {"mode": mode}))
    assert output.shape == (2, 4)
    assert (np.isneginf(output) | ((output >= 0) & (output <= 3))).all()


def test_wrong_shapes_are_refused() -> None:
    case = CaseOnDevice("SegmentPooling", [np.ones((3, 4), np.float32), np.zeros((2, 1), np.int32)], {"mode": "sum"})
    with pytest.raises(Exception, match=r"cu_seqlens has shape \[2, 1\], but must be a vector"):
        by_device(case)
