"""QuantizedMatMul: rows that are hard to quantize, and products of every size, at every instruction set."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest

from tests.custom_ops.instruction_sets import BYTE_PRODUCTS, run_at, weaker
from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel, without_body
from turbo_onnx import runtime
from turbo_onnx.custom_ops.activations import ACTIVATIONS
from turbo_onnx.custom_ops.quantized_mat_mul.layout import tiled, untiled
from turbo_onnx.custom_ops.quantized_mat_mul.spec import quantized_rows

RANDOM = np.random.default_rng(12)
DEPTHS = [1, 3, 4, 7, 15, 16, 17, 40, 63, 64, 65, 130]
WIDTHS = [1, 15, 16, 17, 31, 32, 33, 47, 64, 100]
ROWS = [1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65]
HALF_A_STEP = 0.5 + 1e-4  # what is rounded is itself a float, of up to 255
LARGEST = 2**16  # rows of a weight that passes quantize


def product(
    x: Array, weight: Array, bias: Array | None = None, activation: str = "none", scale: Array | float = 1.0
) -> Case:
    scales = np.full(weight.shape[1], scale, np.float32)
    sums = weight.sum(axis=0, dtype=np.int32)
    inputs = [np.asarray(x, np.float32), tiled(weight), scales, sums, bias]
    return Case("QuantizedMatMul", inputs, {"activation": activation})


def session(case: Case, threads: int = 1) -> Callable[[Array], Array]:
    """The layer of a use, for other rows."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    made = runtime.InferenceSession(without_body(case).SerializeToString(), options)

    def run(x: Array) -> Array:
        (y,) = made.run(None, case.feeds | {"x": x.astype(np.float32)})
        return np.asarray(y)

    return run


def identity(x: Array) -> Case:
    """A use that gives what the bytes of each number stand for."""
    return product(x, np.eye(np.shape(x)[-1], dtype=np.int8))


def read_back(x: Array) -> tuple[Array, Array]:
    """What the kernel's bytes stand for, and the scales; the definition gives the same."""
    (found,) = by_kernel(identity(x))
    np.testing.assert_array_equal(by_definition(identity(x))[0], found)
    return found, quantized_rows(np.asarray(x, np.float32))[1]


def weights(depth: int, width: int) -> Array:
    return RANDOM.integers(-64, 65, (depth, width)).astype(np.int8)


def whole(rows: int, depth: int) -> Array:
    """Rows that are bytes as they are: their scale is 1, and any zero point where there is room for both ends."""
    x = RANDOM.integers(0, 256, (rows, depth))
    x[:, 0], x[:, -1] = 0, 255
    return x - RANDOM.integers(0, 256, (rows, 1)) if depth > 1 else x


# -- the rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_bytes_stand_for_each_number_within_half_a_step(depth: int) -> None:
    size, shift = np.meshgrid([1e-26, 1e-3, 1.0, 1e30], [-100.0, -2.0, 0.0, 2.0, 100.0])
    x = (size[..., None, None] * (RANDOM.standard_normal((20, depth)) + shift[..., None, None])).astype(np.float32)
    actual, scale = read_back(x)
    assert (np.abs(actual - x) <= HALF_A_STEP * scale).all()


@pytest.mark.parametrize("depth", DEPTHS)
def test_rows_of_one_number_keep_it(depth: int) -> None:
    numbers = np.array([0.0, -0.0, 1.0, -1.0, 3.3e38, -3.3e38, 1.1e-30], np.float32)
    x = np.repeat(numbers[:, None], depth, axis=1)
    actual, _ = read_back(x)
    np.testing.assert_allclose(actual, x, rtol=1e-6, atol=0)


def test_zero_is_kept_exactly_wherever_the_row_lies() -> None:
    x = RANDOM.standard_normal((30, 20)).astype(np.float32) + np.linspace(-5, 5, 30, dtype=np.float32)[:, None]
    x[:, 7] = 0.0
    actual, _ = read_back(x)
    assert (actual[:, 7] == 0.0).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_rows_on_one_side_of_zero_use_all_bytes(sign: int) -> None:
    x = sign * np.linspace(0.5, 8.0, 40, dtype=np.float32)[None]
    actual, scale = read_back(x)
    assert scale == pytest.approx(8.0 / 255)
    assert np.rint(actual[0, -1] / scale) == sign * 255


@pytest.mark.parametrize("size", [1e-35, 1e-38, 1e-45])
def test_a_row_of_tiny_numbers_is_zeros(size: float) -> None:
    actual, scale = read_back(np.array([[size, -size, 0.0] * 6, [-size] * 18], np.float32))
    assert not actual.any()
    assert (scale < 1e-34).all()


@pytest.mark.parametrize("low", [0, -128])
def test_a_number_halfway_between_two_bytes_goes_to_the_even_one(low: int) -> None:
    numbers = np.arange(0, 254, dtype=np.float32)
    x = np.concatenate([[low, low + 255], low + numbers + 0.5])[None]  # so that a step is 1
    actual, scale = read_back(x)
    assert scale == 1.0
    np.testing.assert_array_equal(actual[0, 2:], np.rint(low + numbers + 0.5))


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("depth", [1, 7, 16, 40, 64, 130])
def test_a_number_that_is_not_finite_spoils_its_row_and_no_other(depth: int, other: float) -> None:
    x = RANDOM.standard_normal((depth + 2, depth)).astype(np.float32)
    spoilt = x.copy()
    spoilt[np.arange(depth), np.arange(depth)] = other  # once at every place
    weight = weights(depth, 20)
    for run in (by_kernel, by_definition):
        (expected,), (actual,) = run(product(x, weight)), run(product(spoilt, weight))
        assert not np.isfinite(actual[:depth]).any()
        np.testing.assert_array_equal(actual[depth:], expected[depth:])


# -- the product ------------------------------------------------------------------------------------------------------


def assert_exact(weight: Array, *xs: Array, threads: int = 1) -> None:
    """Integers of up to 2^24 are themselves as float32; beyond, they are rounded once."""
    layer = session(product(xs[0], weight), threads)
    for x in xs:
        exact = (x.astype(np.int64) @ weight.astype(np.int64)).astype(np.float32)
        np.testing.assert_array_equal(layer(x), exact)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_exact_for_every_size(depth: int, width: int) -> None:
    assert_exact(weights(depth, width), *(whole(rows, depth) for rows in ROWS))


@pytest.mark.parametrize("shape", [(300, 384, 384), (1, 576, 1536), (70, 1536, 100), (40, 5000, 33), (1100, 1100, 33)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_product_is_exact_where_it_is_cut_into_many_items(shape: tuple[int, int, int], threads: int) -> None:
    rows, depth, width = shape
    assert_exact(weights(depth, width), whole(rows, depth), threads=threads)


@pytest.mark.parametrize("width", [4096, 4100])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_product_is_exact_where_it_is_too_large_for_caches(width: int, threads: int) -> None:
    rows = 600
    assert rows * width * 4 > 2**23
    assert_exact(weights(70, width), whole(rows, 70), threads=threads)


@pytest.mark.parametrize("pair", [(127, 1), (1, 127), (64, 64), (-128, 0), (-64, -64), (-1, -127), (127, -128)])
@pytest.mark.parametrize("rows", [1, 4, 20])
def test_the_heaviest_pairs_of_weights_that_are_allowed_do_not_saturate(rows: int, pair: tuple[int, int]) -> None:
    x = np.full((rows, 256), 255)
    x[:, -2:] = 0, 255
    weight = np.resize(np.array(pair, np.int8), (256, 1)).repeat(40, axis=1)
    assert_exact(weight, x)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("shift", [0, 1, 254, 255])
@pytest.mark.parametrize("rows", [1, 3])
def test_sums_near_the_ends_of_their_type_do_not_overflow(rows: int, shift: int, sign: int) -> None:
    x = np.full((rows, LARGEST), 255)
    x[:, 0] = 0
    assert_exact(np.full((LARGEST, 17), sign * 64, np.int8), x - shift)


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [1, 17, 300])
def test_every_activation_follows_the_bias(width: int, biased: bool, activation: str) -> None:
    bias = RANDOM.standard_normal(width).astype(np.float32) if biased else None
    scale = RANDOM.uniform(0.001, 0.01, width).astype(np.float32)  # so that activations have something to do
    case = product(RANDOM.standard_normal((35, 70)), weights(70, width), bias, activation, scale)
    for actual in (by_kernel(case, threads=2), by_definition(case)):
        assert_equal(actual, case.expected())


def test_a_row_does_not_depend_on_other_rows_or_threads() -> None:
    x = (RANDOM.standard_normal((150, 200)) * np.logspace(-20, 20, 150)[:, None]).astype(np.float32)
    weight, bias = weights(200, 100), RANDOM.standard_normal(100).astype(np.float32)
    layers = [session(product(x, weight, bias, "gelu"), threads) for threads in (1, 2)]
    together = layers[0](x)
    for rows in [*range(1, 20), 31, 32, 33, 64, 100, 150]:
        for first, layer in zip((0, 150 - rows), layers, strict=True):
            np.testing.assert_array_equal(layer(x[first : first + rows]), together[first : first + rows])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 3, 64)])
def test_no_rows_give_none(shape: tuple[int, ...]) -> None:
    case = product(np.zeros(shape), weights(shape[-1], 33))
    for actual in (by_kernel(case), by_definition(case)):
        assert_equal(actual, [np.zeros((*shape[:-1], 33), np.float32)])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_tiles_hold_the_weight_and_zeros(depth: int, width: int) -> None:
    weight = weights(depth, width)
    tiles = tiled(weight)
    assert tiles.shape == (-(-width // 16), -(-depth // 64), 16, 16, 4)
    np.testing.assert_array_equal(untiled(tiles, depth, width), weight)
    assert np.count_nonzero(tiles) == np.count_nonzero(weight)


# -- other machines ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", weaker(BYTE_PRODUCTS))
def test_weaker_instruction_sets_pass_the_same_tests(name: str) -> None:
    assert "passed" in run_at(name, "not weaker", __file__)
