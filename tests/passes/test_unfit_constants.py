"""ConvertPrecision: constants that half precision cannot hold keep what reads them in float32."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.half_precision import W, anything, converted, types
from tests.passes.support import apply, graph, normal, parse, sentences
from turbo_onnx import shapes
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.passes.precision_plan import unfit
from turbo_onnx.precision import BFLOAT16, FLOAT16

MASKED = """g (float[N,4] x, bool[N,4] mask) => (float[N,4] y)
    <float low = {1}> { a = MatMul(x, w) b = Where(mask, a, low) y = Softmax(b) }"""


@pytest.mark.parametrize(
    ("low", "stays"), [("-3.4028235e38", True), ("-1e9", True), ("-65504", False), ("-inf", False)]
)
def test_a_mask_that_would_become_infinite_stays(low: str, stays: bool) -> None:
    model = parse(graph(MASKED), {"w": W})
    model.graph.nodes[1].inputs[2].values = np.array(low, np.float32)
    shapes.infer(model)
    report = apply(ConvertPrecision("fp16", anything), model)
    assert types(model)["Where"] == ("float32" if stays else "float16")
    if stays:
        assert f"'low' holds {float(np.float32(low)):.4g}, and float16 ends at 6.55e+04" in sentences(report)


def test_a_weight_out_of_range_keeps_its_layer_in_float32() -> None:
    large = W.copy()
    large[1, 2] = 7e4
    model, report = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = MatMul(a, large) }", weights={"large": large}
    )
    assert [np.dtype(node.outputs[0].dtype).name for node in model.graph.nodes if node.op == "MatMul"] == [
        "float16",
        "float32",
    ]
    assert sentences(report) == ["'large' holds 7e+04, and float16 ends at 6.55e+04"]


def test_an_epsilon_that_would_become_zero_stays() -> None:
    model, report = converted(
        "g (float[N,4] x) => (float[N,4] y) <float epsilon = {1e-12}> { a = MatMul(x, w) y = Add(a, epsilon) }"
    )
    assert types(model) == {"MatMul": "float16", "Add": "float32"}
    assert sentences(report) == ["'epsilon' is 1e-12, which would become 0 in float16"]


def test_what_underflow_takes_from_a_constant_decides() -> None:
    some = normal(64, 64)
    assert unfit(some, FLOAT16) is None
    some[:32] *= 1e-7  # half of the numbers, but nothing of the weight
    assert unfit(some, FLOAT16) is None
    assert "would lose 0.0" in str(unfit(normal(64, 64) * np.float32(1e-6), FLOAT16))
    assert unfit(normal(64, 64) * np.float32(1e-6), BFLOAT16) is None
    assert unfit(np.float32([1e-30, 0]), BFLOAT16) is None


@pytest.mark.parametrize("value", [0.0, 1.0, 65504.0, -np.inf, np.nan, 0.1, 6.2e-5])
def test_numbers_that_half_precision_has_are_fit(value: float) -> None:
    assert unfit(np.float32(value), FLOAT16) is None


@pytest.mark.parametrize("value", [65505.0, -1e9, 1e-5, 1e-30, -3e-45])
def test_numbers_that_it_does_not_have_are_not(value: float) -> None:
    assert unfit(np.float32(value), FLOAT16) is not None


def test_the_lowest_float32_does_not_fit_bfloat16() -> None:
    assert unfit(np.array([0, np.finfo(np.float32).min]), BFLOAT16) == "holds -3.403e+38, and bfloat16 ends at 3.39e+38"


def test_no_weights_at_all_are_fit() -> None:
    assert unfit(np.zeros((0, 4), np.float32), FLOAT16) is None
