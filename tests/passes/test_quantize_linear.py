"""QuantizeLinear: layers with constant weights multiply bytes, and come within the rounding to them of float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.passes.quantized_layers import (
    BIAS,
    IN,
    LAYER,
    OUT,
    PRODUCT,
    WEIGHT,
    WEIGHTS,
    X,
    bound,
    by_kernels,
    end,
    layer,
    refused,
)
from tests.passes.support import apply, count, graph, normal, operators, parse, run, sentences
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes import quantize_linear
from turbo_onnx.passes.quantize_linear import QuantizeLinear

STEEPEST = {"none": 1.0, "relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13}
"""How much farther apart than two numbers what the activation makes of them can be."""


def quantize(model: Model) -> list[str]:
    """Run the pass, compare what the kernels and the bodies make of its result with each other; its sentences."""
    report = apply(QuantizeLinear("int8"), model)
    bodies, kernels = run(model, {"x": X}), by_kernels(model)
    for body, kernel in zip(bodies, kernels, strict=True):
        np.testing.assert_allclose(kernel, body, rtol=1e-5, atol=1e-5 * float(np.abs(body).max()))
    assert report.facts == {"precision": "int8", "int8_layers": report.applied}
    return sentences(report)


def check(model: Model, expected: Mapping[str, int], steepest: float = 1.0, weight: np.ndarray = WEIGHT) -> None:
    before = run(model, {"x": X})
    assert quantize(model) == []
    assert count(model) == expected
    allowed = steepest * bound(X, weight)
    for old, new in zip(before, by_kernels(model), strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        assert (np.abs(new - old) <= allowed).all()
        assert (new != old).any()


# -- what becomes one layer -------------------------------------------------------------------------------------------


def test_a_product_alone() -> None:
    model = layer("y = MatMul(x, w)")
    check(model, LAYER)
    assert operators(model) == [PRODUCT]
    assert end(model).attrs["activation"] == "none"
    assert len(end(model).inputs) == 4


@pytest.mark.parametrize("operands", ["p, bias", "bias, p"])
def test_a_product_and_a_bias(operands: str) -> None:
    model = layer(f"p = MatMul(x, w) y = Add({operands})")
    check(model, LAYER)
    assert end(model).inputs[4].name == "bias"


@pytest.mark.parametrize("shape", [(1, OUT), (1, 1, OUT)])
def test_a_bias_of_more_axes_becomes_a_vector(shape: tuple[int, ...]) -> None:
    model = layer("p = MatMul(x, w) y = Add(p, bias)", {"w": WEIGHT, "bias": BIAS.reshape(shape)})
    check(model, LAYER)
    np.testing.assert_array_equal(end(model).inputs[4].values, BIAS)


def with_gelu(nodes: str, approximate: str = "none", weights: Mapping[str, np.ndarray] = WEIGHTS) -> Model:
    """A model whose Gelu is fused, with the bias that is its second operand."""
    model = layer(nodes.replace("BiasGelu", "Add" if "BiasGelu(p, " in nodes else "Identity"), weights)
    node = model.graph.nodes[-1]
    node.op, node.domain, node.attrs = "BiasGelu", DOMAIN, {"approximate": approximate}
    return model


@pytest.mark.parametrize(
    "nodes",
    ["p = MatMul(x, w) y = BiasGelu(p, bias)", "p = MatMul(x, w) s = Add(bias, p) y = BiasGelu(s)"],
)
@pytest.mark.parametrize(("approximate", "activation"), [("none", "gelu"), ("tanh", "gelu_tanh")])
def test_a_product_and_a_gelu_of_it_and_a_bias(approximate: str, activation: str, nodes: str) -> None:
    model = with_gelu(nodes, approximate)
    check(model, LAYER, STEEPEST[activation])
    assert end(model).attrs["activation"] == activation
    assert end(model).inputs[4].name == "bias"


def test_a_product_and_a_gelu() -> None:
    model = with_gelu("p = MatMul(x, w) y = BiasGelu(p)")
    check(model, LAYER, STEEPEST["gelu"])
    assert end(model).attrs["activation"] == "gelu"
    assert len(end(model).inputs) == 4


@pytest.mark.parametrize("nodes", ["y = Relu(p)", "s = Add(p, bias) y = Relu(s)"])
def test_a_product_and_a_relu(nodes: str) -> None:
    model = layer(f"p = MatMul(x, w) {nodes}")
    check(model, LAYER, STEEPEST["relu"])
    assert end(model).attrs["activation"] == "relu"
    assert (len(end(model).inputs) == 5) == ("Add" in nodes)


def test_a_second_bias_stays_with_its_gelu() -> None:
    model = layer("p = MatMul(x, w) s = Add(p, bias) y = Add(s, bias)")
    node = model.graph.nodes[-1]
    node.op, node.domain = "BiasGelu", DOMAIN
    check(model, {**LAYER, f"{DOMAIN}.BiasGelu": 1}, STEEPEST["gelu"])


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("p = MatMul(x, w) y = Add(p, p)", "Add"),
        ("p = MatMul(x, w) y = Tanh(p)", "Tanh"),
        ("p = MatMul(x, w) y = Add(p, number)", "Add"),
        ("p = MatMul(x, w) y = Add(p, table)", "Add"),
        ("p = MatMul(x, w) y = Sub(p, bias)", "Sub"),
    ],
)
def test_what_else_follows_a_product_stays(nodes: str, left: str) -> None:
    weights = {"number": np.float32(0.5), "table": normal(5, OUT)}
    model = layer(nodes, {**WEIGHTS, **{name: value for name, value in weights.items() if name in nodes}})
    check(model, {**LAYER, left: 1}, 2.0)


def test_what_is_added_may_have_any_number_of_axes() -> None:
    nodes = "p = MatMul(x, w) u = Reshape(a, shape) s = Add(p, u) y = ReduceSum<keepdims = 0>(s)"
    text = f"g (float[B,S,{IN}] x, float[B,S,{OUT}] a, int64[R] shape) => (float y) {{{nodes}}}"
    model = parse(graph(text), {"w": WEIGHT})
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert count(model) == {**LAYER, "Reshape": 1, "Add": 1, "ReduceSum": 1}


def test_rows_without_a_batch() -> None:
    model = parse(graph(f"g (float[T,{IN}] x) => (float[T,{OUT}] y) {{y = MatMul(x, w)}}"), {"w": WEIGHT})
    x = X.reshape(-1, IN)
    (before,) = run(model, {"x": x})
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert operators(model) == [PRODUCT]
    (after,) = by_kernels(model, x)
    assert (np.abs(after - before) <= bound(x, WEIGHT)).all()


# -- what is shared, and what others read -----------------------------------------------------------------------------


def test_rows_that_several_products_read() -> None:
    weights = {name: 0.1 * normal(IN, OUT, seed=seed) for seed, name in enumerate("abc")}
    model = layer("y = MatMul(x, a) s = MatMul(x, b) z = Relu(s) t = MatMul(x, c)", weights, "y z t")
    before = run(model, {"x": X})
    assert quantize(model) == []
    assert count(model) == {PRODUCT: 3}
    for old, new, weight in zip(before, by_kernels(model), weights.values(), strict=True):
        assert (np.abs(new - old) <= bound(X, weight)).all()


def test_a_weight_that_two_products_share_is_stored_once() -> None:
    model = layer("n = Neg(x) y = MatMul(x, w) z = MatMul(n, w)", {"w": WEIGHT}, "y z")
    check(model, {"Neg": 1, PRODUCT: 2})
    stored = {tensor.name: tensor for tensor in model.to_proto().graph.initializer}
    assert set(stored) == {"w_int8", "w_scale", "w_sums"}
    assert len(stored["w_int8"].raw_data) == 64 * 48  # IN, in whole blocks, and OUT


def test_a_product_that_is_read_twice_keeps_what_both_read() -> None:
    model = layer("p = MatMul(x, w) s = Add(p, bias) y = Relu(s) z = Relu(p)", outputs="y z")
    check(model, {**LAYER, "Add": 1, "Relu": 2})
    assert end(model).attrs["activation"] == "none"


def test_a_sum_that_is_read_twice_keeps_what_both_read() -> None:
    model = layer("p = MatMul(x, w) s = Add(p, bias) y = Relu(s) z = Neg(s)", outputs="y z")
    check(model, {**LAYER, "Relu": 1, "Neg": 1})
    assert end(model).inputs[4].name == "bias"


@pytest.mark.parametrize(
    ("nodes", "outputs", "left"),
    [
        ("p = MatMul(x, w) y = Add(p, bias)", "p y", {"Add": 1}),
        ("p = MatMul(x, w) s = Add(p, bias) y = Relu(s)", "p y", {"Add": 1, "Relu": 1}),
        ("p = MatMul(x, w) s = Add(p, bias) y = Relu(s)", "s y", {"Relu": 1}),
        ("p = MatMul(x, w) y = Relu(p)", "p y", {"Relu": 1}),
    ],
)
def test_a_product_or_a_sum_that_is_an_output_is_computed_once(
    nodes: str, outputs: str, left: Mapping[str, int]
) -> None:
    model = layer(nodes, outputs=outputs)
    if "bias" not in nodes:
        model = layer(nodes, {"w": WEIGHT}, outputs)
    check(model, {**LAYER, **left})
    assert [output.name for output in model.graph.outputs] == outputs.split()


BRANCHES = """
    g (float[B,S,40] x, bool which) => (float[B,S,48] y) {
      p = MatMul(x, w)
      y = If(which) <
        then_branch = yes () => (float[B,S,48] a) { s = Add(p, bias) a = Relu(s) },
        else_branch = no () => (float[B,S,48] b) { b = Add(ones, bias) }
      >
    }
"""


@pytest.mark.parametrize("which", [True, False])
def test_what_only_a_branch_adds_to_a_product_stays_in_the_branch(which: bool) -> None:
    model = parse(graph(BRANCHES), {**WEIGHTS, "ones": np.ones((3, 5, OUT), np.float32)})
    feeds = {"x": X, "which": np.array(which)}
    (before,) = run(model, feeds)
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert count(model) == {**LAYER, "If": 1}
    assert end(model).attrs["activation"] == "none"
    (after,) = run(model, feeds)
    assert (np.abs(after - before) <= bound(X, WEIGHT)).all()


# -- what is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 31), (31, 40)])
def test_a_small_weight(shape: tuple[int, int]) -> None:
    rows, columns = shape
    found = refused(f"g (float[B,{rows}] x) => (float[B,{columns}] y) {{y = MatMul(x, w)}}", {"w": normal(*shape)})
    assert found == [f"w has shape [{rows}, {columns}], which is too small to gain anything"]


def test_a_weight_of_more_rows_than_32_bits_can_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_linear, "LARGEST", IN - 1)
    found = refused(f"g (float[B,{IN}] x) => (float[B,{OUT}] y) {{y = MatMul(x, w)}}", {"w": WEIGHT})
    assert found == ["w has 40 rows, whose products with bytes need more than 32 bits"]
    monkeypatch.setattr(quantize_linear, "LARGEST", IN)
    check(layer("y = MatMul(x, w)", {"w": WEIGHT}), LAYER)


def test_products_of_the_largest_weight_fit_into_32_bits() -> None:
    assert quantize_linear.LARGEST * 255 * 128 < 2**31


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_with_a_number_that_is_not_finite(number: float) -> None:
    weight = WEIGHT.copy()
    weight[3, 5] = number
    found = refused(f"g (float[B,{IN}] x) => (float[B,{OUT}] y) {{y = MatMul(x, w)}}", {"w": weight})
    assert found == ["w has numbers that are not finite"]


@pytest.mark.parametrize(("kind", "name"), [("float16", np.float16), ("double", np.float64)])
def test_another_type(kind: str, name: type) -> None:
    found = refused(f"g ({kind}[B,{IN}] x) => ({kind}[B,{OUT}] y) {{y = MatMul(x, w)}}", {"w": WEIGHT.astype(name)})
    assert found == [f"x is {np.dtype(name)}, and only float32 is quantized"]


def test_what_is_not_known_to_have_rows() -> None:
    vector = f"g (float[{IN}] x) => (float[{OUT}] y) {{y = MatMul(x, w)}}"
    assert refused(vector, {"w": WEIGHT}) == ["x is not known to have rows"]
    unknown = f"""g (float[B,{IN}] a, int64[R] shape) => (float y) {{
        x = Reshape(a, shape) p = MatMul(x, w) y = ReduceSum<keepdims = 0>(p)
    }}"""
    assert refused(unknown, {"w": WEIGHT}) == ["x is not known to have rows"]


@pytest.mark.parametrize(
    ("body", "weights", "sentence"),
    [
        (
            "g (float[B,40] x, float[40,48] w) => (float[B,48] y) {y = MatMul(x, w)}",
            {},
            "both of its sides are computed",
        ),
        ("g (float[48,B] x) => (float[40,B] y) {y = MatMul(w, x)}", {"w": WEIGHT}, "its left side w is constant"),
        (
            "g (float[2,B,40] x) => (float[2,B,48] y) {y = MatMul(x, w)}",
            {"w": normal(2, IN, OUT)},
            "w has shape [2, 40, 48], and only matrices are quantized",
        ),
        (
            "g (float[2,B,40] x) => (float[2,B,48] y) {t = Transpose<perm = [0, 2, 1]>(w) y = MatMul(x, t)}",
            {"w": normal(2, OUT, IN)},
            "w has shape [2, 48, 40], and only matrices are quantized",
        ),
    ],
)
def test_a_product_with_no_constant_matrix_on_its_right(
    body: str, weights: Mapping[str, np.ndarray], sentence: str
) -> None:
    assert refused(body, weights) == [sentence]


INSIDE = """
    g (float[B,S,40] x, int64 often, bool go) => (float[B,S,40] y) {
      y = Loop(often, go, x) <body = b (int64 i, bool more, float[B,S,40] state) => (bool on, float[B,S,40] next)
        { on = Identity(more) p = MatMul(state, w) next = MatMul(p, back) }>
    }
"""


def test_products_inside_of_loops() -> None:
    weights = {"w": WEIGHT, "back": WEIGHT.T.copy()}
    assert refused(INSIDE, weights) == ["it is inside of a loop, or of a branch that is left as it is"] * 2


def test_float32_changes_nothing() -> None:
    for rewrite in (QuantizeLinear(), QuantizeLinear("fp32"), QuantizeLinear("fp16")):
        model = layer("p = MatMul(x, w) y = Add(p, bias)")
        report = apply(rewrite, model)
        assert (report.applied, report.rejected, report.facts) == (0, [], {})
        assert operators(model) == ["MatMul", "Add"]


# -- what the result promises -----------------------------------------------------------------------------------------


def test_results_keep_name_type_and_shape() -> None:
    model = layer("p = MatMul(x, w) s = Add(p, bias) y = Tanh(s)")
    apply(QuantizeLinear("int8"), model)
    (result,) = end(model).outputs
    assert (result.dtype, list(result.shape)) == (np.float32, ["B", "S", OUT])


def test_a_row_has_the_same_bits_whatever_rows_are_beside_it() -> None:
    model = layer("p = MatMul(x, w) s = Add(p, bias) y = Relu(s)")
    apply(QuantizeLinear("int8"), model)
    (together,) = by_kernels(model)
    for row in np.ndindex(3, 5):
        (alone,) = by_kernels(model, X[row][None, None])
        np.testing.assert_array_equal(alone[0, 0], together[row])


def test_a_row_of_the_largest_bytes_does_not_saturate() -> None:
    """Every byte is 255, and every pair of neighbours in the weight as large as it can be."""
    weight = np.ones((64, OUT), np.float32) * np.where(np.arange(OUT) % 2, 1, -1).astype(np.float32)
    model = parse(graph(f"g (float[B,64] x) => (float[B,{OUT}] y) {{y = MatMul(x, w)}}"), {"w": weight})
    apply(QuantizeLinear("int8"), model)
    x = np.full((7, 64), 3, np.float32)
    for (actual,) in (run(model, {"x": x}), by_kernels(model, x)):
        assert (np.abs(actual - x @ weight) <= bound(x, weight)).all()
