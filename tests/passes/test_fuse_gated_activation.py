"""FuseGatedActivation: each activation and each way to lay out gate and up, biases, and what must stay as it is."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_gated_activation import FuseGatedActivation
from turbo_onnx.passes.raise_gelu import RaiseGelu

X = {"x": normal(2, 3, 8)}
OURS = "turbo_onnx.GatedActivation"
CONSTANTS = """
    float[8] wide = {1, -2, 0.5, 0, 3, 1, -1, 2}, float[4] left = {1, -2, 0.5, 0}, float[4] right = {3, 1, -1, 2},
    int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] six = {6}, int64[1] eight = {8},
    int64[1] last = {-1}, float root = {1.4142135}, float one = {1}, float half = {0.5}
"""
SPLIT = "a, b = Split<axis = -1>(x)"
SILU = "s = Sigmoid(a) g = Mul(a, s)"
APART = "z = Neg(x) a, c = Split<axis = -1>(x) d, b = Split<axis = -1>(z) h = Add(c, d)"  # halves of two tensors
WITH_SUM = "float[B,S,4] y, float[B,S,4] h"


def model(nodes: str, opset: int = 17, outputs: str = "float[B,S,4] y", inputs: str = "float[B,S,8] x") -> Model:
    return parse(graph(f"g ({inputs}) => ({outputs}) <{CONSTANTS}> {{{nodes}}}", opset=opset))


def check(after: Model, expected: dict[str, int], inputs: dict[str, np.ndarray] = X) -> PassReport:
    before = run(after, inputs)
    report = apply(FuseGatedActivation(), after)
    assert count(after) == expected
    equivalent(before, after, inputs)
    return report


def ours(after: Model) -> gs.Node:
    (node,) = (node for node in after.graph.nodes if node.op == "GatedActivation")
    return node


def operands(after: Model) -> list[str]:
    return [tensor.name for tensor in ours(after).inputs]


@pytest.mark.parametrize(
    ("opset", "nodes", "activation"),
    [
        (17, SILU, "silu"),
        (17, "s = Sigmoid(a) g = Mul(s, a)", "silu"),
        (17, "g = Sigmoid(a)", "sigmoid"),
        (17, "g = Relu(a)", "relu"),
        (20, "g = Gelu(a)", "gelu"),
        (20, 'g = Gelu<approximate = "tanh">(a)', "gelu_tanh"),
    ],
)
@pytest.mark.parametrize("product", ["g, b", "b, g"])
def test_every_activation_is_taken_with_the_halves_of_one_tensor(
    opset: int, nodes: str, activation: str, product: str
) -> None:
    split = SPLIT if opset < 18 else "a, b = Split<axis = -1, num_outputs = 2>(x)"
    after = model(f"{split} {nodes} y = Mul({product})", opset)
    check(after, {OURS: 1})
    assert ours(after).attrs == {"activation": activation, "gate_last": 0}
    assert operands(after) == ["x"]


def test_a_raised_gelu_is_taken() -> None:
    gelu = "q = Div(a, root) e = Erf(q) f = Add(e, one) p = Mul(a, f) g = Mul(p, half)"
    after = model(f"{SPLIT} {gelu} y = Mul(g, b)")
    before = run(after, X)
    apply(RaiseGelu(), after)
    apply(FuseGatedActivation(), after)
    assert operators(after) == [OURS]
    equivalent(before, after, X)


@pytest.mark.parametrize(
    "halves",
    [
        "b, a = Split<axis = 2>(x)",
        "b = Slice(x, zero, four, last) a = Slice(x, four, eight, last)",
    ],
)
def test_the_gate_may_be_the_second_half(halves: str) -> None:
    after = model(f"{halves} {SILU} y = Mul(g, b)")
    check(after, {OURS: 1})
    assert ours(after).attrs == {"activation": "silu", "gate_last": 1}
    assert operands(after) == ["x"]


def test_the_result_has_type_and_shape() -> None:
    after = model(f"{SPLIT} {SILU} h = Mul(g, b) y = Neg(h)")
    check(after, {OURS: 1, "Neg": 1})
    result = ours(after).outputs[0]
    assert (result.dtype, list(result.shape)) == (np.float32, ["B", "S", 4])


@pytest.mark.parametrize(
    ("halves", "left"),
    [
        ("a = Slice(x, zero, four, last) b = Slice(x, two, six, last)", {"Slice": 2}),
        ("a, b, c = Split<axis = -1>(wider)", {"Split": 1}),
        ("q = Mul(x, half) a, c = Split<axis = -1>(x) d, b = Split<axis = -1>(q)", {"Mul": 1, "Split": 2}),
    ],
)
def test_parts_that_are_no_halves_are_two_operands(halves: str, left: dict[str, int]) -> None:
    inputs = {"x": X["x"], "wider": normal(2, 3, 12, seed=1)}
    after = model(f"{halves} {SILU} y = Mul(g, b)", inputs="float[B,S,8] x, float[B,S,12] wider")
    check(after, {OURS: 1, **left}, inputs)
    assert operands(after) == ["a", "b"]


def test_a_split_that_something_else_reads_stays_for_that() -> None:
    after = model(f"{SPLIT} {SILU} y = Mul(g, b) h = Neg(b)", outputs=WITH_SUM)
    check(after, {OURS: 1, "Split": 1, "Neg": 1})
    assert operands(after) == ["x"]


def test_silu_without_a_gate_takes_its_bias_in_as_the_product_of_a_tensor_and_its_sigmoid() -> None:
    after = model("t = Add(x, wide) s = Sigmoid(t) y = Mul(t, s)", outputs="float[B,S,8] y")
    check(after, {OURS: 1})
    assert ours(after).attrs == {"activation": "sigmoid"}
    np.testing.assert_array_equal(ours(after).inputs[2].values, 2 * [1, -2, 0.5, 0, 3, 1, -1, 2])
    assert [tensor.name for tensor in ours(after).inputs[:2]] == ["x", "x"]


# Biases


def test_a_bias_in_front_of_the_halves_is_taken_in() -> None:
    after = model(f"t = Add(wide, x) {SPLIT.replace('(x)', '(t)')} {SILU} y = Mul(b, g)")
    check(after, {OURS: 1})
    np.testing.assert_array_equal(ours(after).inputs[2].values, [1, -2, 0.5, 0, 3, 1, -1, 2])
    assert [tensor.name for tensor in ours(after).inputs[:2]] == ["x", ""]


@pytest.mark.parametrize(
    ("sums", "bias"),
    [
        ("aa = Add(a, left) bb = Add(b, right)", [1, -2, 0.5, 0, 3, 1, -1, 2]),
        ("aa = Add(left, a) bb = Identity(b)", [1, -2, 0.5, 0, 0, 0, 0, 0]),
        ("aa = Identity(a) bb = Add(b, right)", [0, 0, 0, 0, 3, 1, -1, 2]),
    ],
)
def test_biases_of_two_operands_are_taken_in_together(sums: str, bias: list[float]) -> None:
    after = model(f"{APART} {sums} s = Sigmoid(aa) g = Mul(aa, s) y = Mul(g, bb)", outputs=WITH_SUM)
    check(after, {OURS: 1, "Neg": 1, "Split": 2, "Add": 1, **({"Identity": 1} if "Identity" in sums else {})})
    np.testing.assert_array_equal(ours(after).inputs[2].values, bias)


@pytest.mark.parametrize(
    ("total", "outputs"),
    [
        ("t = Add(x, wide) h = Neg(t)", "float[B,S,4] y, float[B,S,8] h"),  # read elsewhere
        ("t = Add(x, wide)", "float[B,S,4] y, float[B,S,8] t"),
        ("t = Add(x, one)", "float[B,S,4] y"),  # no row
    ],
)
def test_other_sums_stay_in_front(total: str, outputs: str) -> None:
    after = model(f"{total} {SPLIT.replace('(x)', '(t)')} {SILU} y = Mul(g, b)", outputs=outputs)
    check(after, {OURS: 1, "Add": 1, **({"Neg": 1} if "Neg" in total else {})})
    assert operands(after) == ["t"]


def test_a_row_that_an_operand_is_broadcast_to_stays_in_front() -> None:
    inputs = {"x": X["x"], "column": normal(2, 3, 1, seed=2)}
    after = model(
        f"t = Add(column, wide) {SPLIT.replace('(x)', '(t)')} {SILU} y = Mul(g, b)",
        inputs="float[B,S,8] x, float[B,S,1] column",
    )
    check(after, {OURS: 1, "Add": 1}, inputs)


# What stays


@pytest.mark.parametrize(
    ("up", "value"),
    [
        ("float[B,1,8] up", normal(2, 1, 8)),
        ("float[8] up", normal(8)),
        ("float[1,S,8] up", normal(1, 3, 8)),
    ],
)
def test_what_is_broadcast_is_refused(up: str, value: np.ndarray) -> None:
    after = model("g = Relu(x) y = Mul(g, up)", outputs="float[B,S,8] y", inputs=f"float[B,S,8] x, {up}")
    report = check(after, {"Relu": 1, "Mul": 1}, X | {"up": value})
    assert "broadcasts against" in sentences(report)[0]


@pytest.mark.parametrize("batch", [1, 2])
def test_sizes_that_have_different_names_in_the_file_prove_nothing(batch: int) -> None:
    after = model("g = Relu(x) y = Mul(g, up)", outputs="float[X,Y,8] y", inputs="float[B,S,8] x, float[P,S,8] up")
    shapes.infer(after)  # which takes B and P for one
    report = check(after, {"Relu": 1, "Mul": 1}, X | {"up": normal(batch, 3, 8, seed=1)})
    assert "sizes of x and up have different names" in sentences(report)[0]


def test_an_activation_that_is_read_elsewhere_stays() -> None:
    after = model(f"{SPLIT} h = Relu(a) y = Mul(h, b)", outputs=WITH_SUM)
    check(after, {"Split": 1, "Relu": 1, "Mul": 1})


@pytest.mark.parametrize("nodes", ["g = Relu(x) y = Mul(g, g)", "s = Sigmoid(x) g = Mul(x, s) y = Mul(g, s)"])
def test_an_activation_times_itself_is_no_gate(nodes: str) -> None:
    after = model(nodes, outputs="float[B,S,8] y")
    before = run(after, X)
    report = apply(FuseGatedActivation(), after)
    assert OURS not in operators(after)
    assert "is multiplied with what it is computed from" in sentences(report)[0]
    equivalent(before, after, X)


@pytest.mark.parametrize("total", ["t = Neg(x) h = Exp(x)", "t = Add(x, wide) h = Neg(t)"])
def test_silu_that_would_take_no_bias_in_stays(total: str) -> None:
    after = model(f"{total} s = Sigmoid(t) y = Mul(t, s)", outputs="float[B,S,8] y, float[B,S,8] h")
    before = run(after, X)
    report = apply(FuseGatedActivation(), after)
    assert OURS not in operators(after)
    assert sentences(report) == ["t is gated by itself, of which ONNX Runtime makes one operator, too"]
    equivalent(before, after, X)


def test_half_precision_has_no_kernel() -> None:
    after = model("g = Relu(x) y = Mul(g, up)", outputs="float16[B,8] y", inputs="float16[B,8] x, float16[B,8] up")
    report = apply(FuseGatedActivation(), after)
    assert operators(after) == ["Relu", "Mul"]
    assert "is float16, and there is a kernel for float32 only" in sentences(report)[0]


def test_sigmoid_of_a_multiple_is_another_function() -> None:
    after = model(f"{SPLIT} q = Mul(a, root) s = Sigmoid(q) g = Mul(a, s) y = Mul(g, b)")
    report = check(after, {"Split": 1, "Sigmoid": 1, "Mul": 3})
    assert sentences(report) == ["a is gated by itself, of which ONNX Runtime makes one operator, too"]
