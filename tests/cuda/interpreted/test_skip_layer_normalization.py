"""SkipLayerNormalization on CUDA: widths and heights at the edges of tiles, special values, memory that is shared."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.cuda.device import by_device, use_of
from tests.cuda.interpreter import interpret
from tests.custom_ops.cases import eighths
from tests.custom_ops.single_node import Array, Case, assert_equal
from turbo_onnx.custom_ops.cuda.normalization import WIDEST
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.custom_ops.skip_layer_normalization.cuda import tile, variants
from turbo_onnx.errors import Reject

RANDOM = np.random.default_rng(11)


def ones(width: int) -> Array:
    return np.ones(width, np.float32)


def complete(rows: int, width: int) -> Case:
    """A use with everything that is optional."""
    x, skip = eighths(RANDOM, rows, width), eighths(RANDOM, rows, width)
    gamma, beta = (RANDOM.standard_normal(width).astype(np.float32) for _ in range(2))
    return Case("SkipLayerNormalization", [x, skip, gamma, beta, eighths(RANDOM, width)], {"epsilon": 1e-2}, outputs=2)


@pytest.mark.parametrize("width", [1, 3, 37, 127, 128, 129, 384, 770, 1025, 5000])
def test_every_width_and_number_of_rows_at_the_edges_of_tiles(width: int) -> None:
    height = tile(width).rows
    for rows in {1, height - 1, height, height + 1}:
        case = complete(rows, width)
        assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("width", [WIDEST, WIDEST + 1, 20_000])
def test_rows_about_as_wide_as_registers_hold_and_wider(width: int) -> None:
    for case in (complete(3, width), Case("SkipLayerNormalization", [*complete(2, width).inputs[:3]])):
        assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("width", [37, 128, 20_000])
@pytest.mark.parametrize("skip", [False, True])
def test_rms_normalization_subtracts_no_mean(width: int, skip: bool) -> None:
    x, *others = complete(3, width).inputs
    x = x + 4.0  # far from a mean of 0
    rms = Case("SkipLayerNormalization", [x, others[0] if skip else None, others[1]], {"rms": 1}, outputs=1 + skip)
    assert_equal(by_device(rms), rms.expected())
    layer = Case("SkipLayerNormalization", rms.inputs, {"rms": 0}, outputs=rms.outputs)
    assert_equal(by_device(layer), layer.expected())
    assert np.abs(layer.expected()[0] - rms.expected()[0]).max() > 0.5


def test_archives_from_before_keep_their_keys() -> None:
    (variant,) = variants(use_of(complete(2, 8)), 90)
    assert variant.key == "skip_layer_normalization;float32;width=8;beta=1;bias=1;sum=1"


@pytest.mark.parametrize("width", [100, 20_000])
def test_the_variance_survives_a_mean_that_is_much_larger(width: int) -> None:
    x = (4096 + RANDOM.integers(-8, 9, (3, width))).astype(np.float32)
    case = Case("SkipLayerNormalization", [x, np.zeros_like(x), ones(width)])
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("width", [20, 20_000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the reference
def test_what_is_not_a_number_stays_in_its_row(value: float, width: int) -> None:
    x = eighths(RANDOM, 3, width)
    (expected,) = by_device(Case("SkipLayerNormalization", [x, x, ones(width)]))
    dirty = x.copy()
    dirty[1, 4] = value
    (actual,) = by_device(Case("SkipLayerNormalization", [dirty, x, ones(width)]))
    assert np.isnan(actual[1]).all()
    np.testing.assert_array_equal(actual[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("width", [64, 20_000])
def test_the_statistics_are_those_of_the_sum_before_it_is_rounded(width: int) -> None:
    x = np.full((2, width), 2048, np.float32)
    skip = np.tile(np.array([0.25, -0.25], np.float32), (2, width // 2))
    output, total = by_device(Case("SkipLayerNormalization", [x, skip, ones(width)], outputs=2), "float16")
    np.testing.assert_allclose(output, 4 * skip, rtol=1e-3)
    np.testing.assert_array_equal(total, x)  # as float16 it knows nothing of the skip


def test_rows_that_are_all_equal_give_zeros() -> None:
    x = np.full((2, 37), 0.1, np.float32)
    (output,) = by_device(Case("SkipLayerNormalization", [x, x, ones(37)], {"epsilon": 1e-12}))
    np.testing.assert_allclose(output, np.zeros_like(x), atol=1e-6)


@pytest.mark.parametrize("width", [37, 770, 20_000])
def test_results_are_right_where_memory_is_shared_with_the_inputs(width: int) -> None:
    case = complete(5, width)
    (variant,) = variants(use_of(case), 90)
    x, skip, gamma, beta, bias = (np.array(value) for value in case.inputs)
    pointers = [value.ctypes.data for value in (x, skip, gamma, beta, bias, x, skip)]  # output is x, and sum is skip
    values = [*map(ctypes.c_uint64, pointers), ctypes.c_float(1e-2), ctypes.c_int64(5)]
    interpret(variant, (-(-5 // variant.tile[0]), 1, 1), [ctypes.addressof(value) for value in values])
    assert_equal([x, skip], case.expected())


def test_wrong_shapes_are_refused() -> None:
    x, skip = np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)
    with pytest.raises(Exception, match=r"x has shape \[2, 4\], but skip has \[1, 4\]"):
        by_device(Case("SkipLayerNormalization", [x, skip, ones(4)]))


def test_a_width_that_only_a_run_can_tell_is_refused() -> None:
    use = use_of(complete(2, 8))
    unknown = Use(use.operator, use.types, dict(use.shapes) | {"x": ("rows", "width")}, use.attributes)
    with pytest.raises(Reject, match="the size of axis -1 of x is not known"):
        variants(unknown, 90)
