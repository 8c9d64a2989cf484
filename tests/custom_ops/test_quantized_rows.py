"""QuantizeRows and DequantizeRows: rows that are hard to quantize, sums near the ends of their type, shared memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel, without_body
from turbo_onnx import runtime
from turbo_onnx.custom_ops.activations import ACTIVATIONS
from turbo_onnx.custom_ops.specification import DOMAIN

RANDOM = np.random.default_rng(12)
WIDTHS = [1, 3, 4, 7, 15, 16, 17, 40]
HALF_A_STEP = 0.5 + 1e-4  # what is rounded is itself a float, of up to 255
MOST = 255 * 64 * 2**16
"""The largest product of bytes and a weight of the most rows: two of its neighbours come to 128 at most."""


def rows_of(x: Array) -> Case:
    return Case("QuantizeRows", [np.asarray(x, np.float32)], outputs=3)


def read_back(x: Array) -> tuple[Array, Array]:
    """What the kernel's bytes stand for, and the scales; the definition gives the same bytes."""
    found = by_kernel(rows_of(x))
    assert_equal(by_definition(rows_of(x)), found)
    output, scale, zero_point = (part.astype(np.float64) for part in found)
    return (output - zero_point) * scale, scale


# -- quantizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_bytes_stand_for_each_number_within_half_a_step(width: int) -> None:
    size, shift = np.meshgrid([1e-26, 1e-3, 1.0, 1e30], [-100.0, -2.0, 0.0, 2.0, 100.0])
    x = (size[..., None, None] * (RANDOM.standard_normal((20, width)) + shift[..., None, None])).astype(np.float32)
    actual, scale = read_back(x)
    assert (np.abs(actual - x) <= HALF_A_STEP * scale).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_one_number_keep_it(width: int) -> None:
    numbers = np.array([0.0, -0.0, 1.0, -1.0, 3.3e38, -3.3e38, 1.1e-30], np.float32)
    x = np.repeat(numbers[:, None], width, axis=1)
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
    output, scale, zero_point = by_kernel(rows_of(x))
    assert scale == pytest.approx(8.0 / 255)
    assert zero_point == (0 if sign > 0 else 255)
    assert output[0, -1] == (255 if sign > 0 else 0)


@pytest.mark.parametrize("size", [1e-35, 1e-38, 1e-45])
def test_a_row_of_tiny_numbers_is_zeros(size: float) -> None:
    x = np.array([[size, -size, 0.0] * 6, [-size] * 18], np.float32)
    output, scale, zero_point = by_kernel(rows_of(x))
    assert not output.any()
    assert not zero_point.any()
    assert (scale < 1e-34).all()
    assert_equal(by_definition(rows_of(x)), [output, scale, zero_point])


@pytest.mark.parametrize("low", [0, -128])
def test_a_number_halfway_between_two_bytes_goes_to_the_even_one(low: int) -> None:
    whole = np.arange(0, 254, dtype=np.float32)
    x = np.concatenate([[low, low + 255], low + whole + 0.5])[None]  # so that a step is 1
    output, scale, zero_point = by_kernel(rows_of(x))
    assert (scale, zero_point) == (1.0, -low)
    np.testing.assert_array_equal(output[0, 2:], np.rint(low + whole + 0.5) - low)
    assert set(output[0, 2:] % 2) == {0}
    assert_equal(by_definition(rows_of(x)), [output, scale, zero_point])


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [1, 7, 16, 40])
def test_a_number_that_is_not_finite_spoils_its_row_and_no_other(width: int, other: float) -> None:
    x = RANDOM.standard_normal((width + 2, width)).astype(np.float32)
    spoilt = x.copy()
    spoilt[np.arange(width), np.arange(width)] = other  # once at every place
    for run in (by_kernel, by_definition):
        expected, actual = run(rows_of(x)), run(rows_of(spoilt))
        assert not np.isfinite(actual[1][:width]).any()
        for before, after in zip(expected, actual, strict=True):
            np.testing.assert_array_equal(after[width:], before[width:])


def test_the_bytes_of_a_row_do_not_depend_on_other_rows() -> None:
    x = (RANDOM.standard_normal((50, 37)) * np.logspace(-20, 20, 50)[:, None]).astype(np.float32)
    together = by_kernel(rows_of(x), threads=2)
    for row in range(len(x)):
        for part, alone in zip(together, by_kernel(rows_of(x[row])), strict=True):
            np.testing.assert_array_equal(part[row], alone)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_no_rows_give_none(shape: tuple[int, ...]) -> None:
    row = (*shape[:-1], 1)
    for actual in (by_kernel(rows_of(np.zeros(shape))), by_definition(rows_of(np.zeros(shape)))):
        assert_equal(actual, [np.zeros(shape, np.uint8), np.zeros(row, np.float32), np.zeros(row, np.uint8)])


# -- dequantizing -----------------------------------------------------------------------------------------------------


def product(rows: int, width: int, activation: str = "none", *, biased: bool = False) -> Case:
    """A use whose numbers are small, so that activations have something to do."""
    x, sums = RANDOM.integers(-3000, 3000, (rows, width)), RANDOM.integers(-20, 20, width)
    zero_point = RANDOM.integers(0, 256, (rows, 1))
    scale, weight_scale = RANDOM.uniform(0.01, 0.05, (rows, 1)), RANDOM.uniform(0.01, 0.05, width)
    inputs = [
        x.astype(np.int32),
        scale.astype(np.float32),
        zero_point.astype(np.uint8),
        weight_scale.astype(np.float32),
        sums.astype(np.int32),
        RANDOM.standard_normal(width).astype(np.float32) if biased else None,
    ]
    return Case("DequantizeRows", inputs, {"activation": activation})


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [1, 17, 20_000])
def test_every_activation_follows_the_bias(width: int, biased: bool, activation: str) -> None:
    case = product(3, width, activation, biased=biased)
    for actual in (by_kernel(case, threads=2), by_definition(case)):
        assert_equal(actual, case.expected())


@pytest.mark.parametrize("product_of_bytes", [MOST, -MOST])
@pytest.mark.parametrize("zero_point", [0, 1, 254, 255])
def test_sums_near_the_ends_of_their_type_do_not_overflow(zero_point: int, product_of_bytes: int) -> None:
    sums = product_of_bytes // 255
    x = np.full((1, 19), product_of_bytes, np.int32)
    column = np.ones(19, np.float32)
    zero_points = np.full((1, 1), zero_point, np.uint8)
    inputs = [x, np.ones((1, 1), np.float32), zero_points, column, np.full(19, sums, np.int32)]
    case = Case("DequantizeRows", inputs)
    exact = np.full((1, 19), product_of_bytes - zero_point * sums, np.float64)
    for (actual,) in (by_kernel(case), by_definition(case)):
        np.testing.assert_allclose(actual, exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize("x", [2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 1])
def test_every_integer_is_converted_to_the_nearest_float(x: int) -> None:
    inputs = [np.full((1, 19), x, np.int32), np.ones((1, 1), np.float32), np.zeros((1, 1), np.uint8)]
    case = Case("DequantizeRows", [*inputs, np.ones(19, np.float32), np.ones(19, np.int32)])
    (actual,) = by_kernel(case)
    np.testing.assert_array_equal(actual, np.full((1, 19), x).astype(np.float32))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (3, 0)])
def test_nothing_dequantizes_to_nothing(shape: tuple[int, ...]) -> None:
    row, width = (*shape[:-1], 1), shape[-1]
    inputs = [np.zeros(shape, np.int32), np.ones(row, np.float32), np.ones(row, np.uint8)]
    case = Case("DequantizeRows", [*inputs, np.ones(width, np.float32), np.ones(width, np.int32)])
    assert_equal(by_kernel(case), [np.zeros(shape, np.float32)])


def test_a_scale_that_is_not_finite_spoils_its_row_and_no_other() -> None:
    case = product(3, 20, biased=True)
    scale = case.inputs[1]
    assert scale is not None
    (before,) = by_kernel(case)
    for other in (math.nan, math.inf):
        scale[1] = other
        (after,) = by_kernel(case)
        np.testing.assert_array_equal(np.isfinite(after).all(axis=1), [True, False, True])
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("rows", [3, 700])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_numbers_may_take_the_memory_of_the_integers(activation: str, rows: int) -> None:
    case = product(rows, 130, activation, biased=True)
    proto = without_body(case)
    (node,) = proto.graph.node
    node.input[0], node.output[0] = "before", "after"
    neg = [helper.make_node("Neg", ["x"], ["before"]), node, helper.make_node("Neg", ["after"], ["output"])]
    del proto.graph.node[:]
    proto.graph.node.extend(neg)
    for name, kind in (("before", TensorProto.INT32), ("after", TensorProto.FLOAT)):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, kind, ["T", 130]))
    x = case.inputs[0]
    assert x is not None
    session = runtime.InferenceSession(proto.SerializeToString())
    (actual,) = session.run(None, case.feeds | {"x": -x})
    assert_equal([-actual], by_kernel(case), 1e-6)


# -- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
def test_a_layer_of_a_row_that_is_not_finite_gives_no_finite_number(other: float) -> None:
    x = RANDOM.standard_normal((3, 40)).astype(np.float32)
    x[1, 5] = other
    nodes = [
        helper.make_node("QuantizeRows", ["x"], ["q", "scale", "zero_point"], domain=DOMAIN),
        helper.make_node("MatMulInteger", ["q", "weight"], ["product"]),
        helper.make_node(
            "DequantizeRows", ["product", "scale", "zero_point", "weight_scale", "sums"], ["y"], domain=DOMAIN
        ),
    ]
    weight = RANDOM.integers(-60, 60, (40, 24)).astype(np.int8)
    parts = {"weight": weight, "weight_scale": np.ones(24, np.float32), "sums": weight.sum(axis=0, dtype=np.int32)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", 24])],
        [helper.make_tensor(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v) for n, v in parts.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (y,) = runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    assert not np.isfinite(y[1]).any()
    assert np.isfinite(y[[0, 2]]).all()
