"""FuseSkipLayerNormalization: residual sum, bias and normalization become one, where no operand broadcasts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import sessions
from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization

ROWS = "float[4] gamma = {1, 2, -1, 0.5}, float[4] beta = {0.1, 0.2, 0.3, 0.4}, float[4] bias = {1, -1, 2, 0}"


def model_of(nodes: str, *, x: str = "B,S,4", skip: str = "B,S,4", y: str = "B,S,4", rows: str = ROWS) -> Model:
    return parse(graph(f"g (float[{x}] x, float[{skip}] skip) => (float[{y}] y) <{rows}> {{{nodes}}}"))


def inputs() -> dict[str, np.ndarray]:
    return {"x": normal(2, 3, 4), "skip": normal(2, 3, 4, seed=1)}


NORM = "y = LayerNormalization<axis=-1, epsilon=0.001>(t, gamma, beta)"

SPELLINGS = {
    "sum": (f"t = Add(x, skip) {NORM}", 4),
    "last axis as a positive number": ("t = Add(x, skip) y = LayerNormalization<axis=2>(t, gamma, beta)", 4),
    "without shift": ("t = Add(x, skip) y = LayerNormalization(t, gamma)", 3),
    "bias on the left": (f"b = Add(x, bias) t = Add(b, skip) {NORM}", 5),
    "bias on the right": (f"b = Add(bias, x) t = Add(skip, b) {NORM}", 5),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_operator(name: str) -> None:
    nodes, operands = SPELLINGS[name]
    model = model_of(nodes)
    before = run(model, inputs())
    report = apply(FuseSkipLayerNormalization(), model)
    assert report.applied == 1
    assert operators(model) == ["turbo_onnx.SkipLayerNormalization"]
    assert len(model.graph.nodes[0].inputs) == operands
    assert len(model.graph.nodes[0].outputs) == 1
    equivalent(before, model, inputs())


def test_the_sum_is_a_second_result_where_it_is_read_again() -> None:
    model = model_of("b = Add(x, bias) t = Add(b, skip) n = LayerNormalization(t, gamma, beta) y = Add(n, t)")
    before = run(model, inputs())
    apply(FuseSkipLayerNormalization(), model)
    assert count(model) == {"turbo_onnx.SkipLayerNormalization": 1, "Add": 1}
    total = model.graph.nodes[0].outputs[1]
    assert (total.dtype, list(total.shape)) == (np.float32, ["B", "S", 4])
    equivalent(before, model, inputs())


def test_the_sum_may_be_an_output_of_the_graph() -> None:
    model = parse(
        graph(f"g (float[B,4] x, float[B,4] skip) => (float[B,4] y, float[B,4] t) <{ROWS}> {{t = Add(x, skip) {NORM}}}")
    )
    data = {"x": normal(3, 4), "skip": normal(3, 4, seed=1)}
    before = run(model, data)
    apply(FuseSkipLayerNormalization(), model)
    assert [tensor.name for tensor in model.graph.outputs] == ["y", "t"]
    assert operators(model) == ["turbo_onnx.SkipLayerNormalization"]
    equivalent(before, model, data)


def test_a_biased_operand_that_is_read_elsewhere_keeps_its_bias_outside() -> None:
    model = model_of("b = Add(x, bias) t = Add(b, skip) n = LayerNormalization(t, gamma, beta) y = Add(n, b)")
    before = run(model, inputs())
    apply(FuseSkipLayerNormalization(), model)
    assert count(model) == {"turbo_onnx.SkipLayerNormalization": 1, "Add": 2}
    equivalent(before, model, inputs())


def test_two_in_a_row_hand_the_sum_on() -> None:
    model = model_of(
        "t = Add(x, skip) n = LayerNormalization(t, gamma, beta) r = Relu(n) t2 = Add(r, t) "
        "n2 = LayerNormalization(t2, gamma, beta) y = Add(n2, t2)"
    )
    before = run(model, inputs())
    report = apply(FuseSkipLayerNormalization(), model)
    assert report.applied == 2
    assert operators(model) == ["turbo_onnx.SkipLayerNormalization", "Relu", "turbo_onnx.SkipLayerNormalization", "Add"]
    equivalent(before, model, inputs())


RMS = "p = Mul(t, t) m = ReduceMean<axes=[-1]>(p) e = Add(m, eps) q = Sqrt(e) n = Div(t, q) g = Mul(gamma, n)"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_rms_normalization_is_fused_in_the_same_way(bias: bool, again: bool) -> None:
    total = "b = Add(x, bias) t = Add(b, skip)" if bias else "t = Add(skip, x)"
    end = "y = Add(g, t)" if again else "y = Relu(g)"
    model = model_of(f"{total} {RMS} {end}", rows=f"{ROWS}, float eps = {{0.25}}")
    before = run(model, inputs())
    RaiseRmsNormalization().run(model)
    assert apply(FuseSkipLayerNormalization(), model).applied == 1
    node = model.graph.nodes[0]
    assert operators(model) == ["turbo_onnx.SkipLayerNormalization", "Add" if again else "Relu"]
    assert node.attrs == {"epsilon": 0.25, "rms": 1}
    assert (len(node.inputs), len(node.outputs)) == (5 if bias else 3, 2 if again else 1)
    equivalent(before, model, inputs())


def test_the_standard_rms_normalization_is_fused() -> None:
    nodes = "t = Add(x, skip) y = RMSNormalization(t, gamma)"
    text = f"g (float[B,4] x, float[B,4] skip) => (float[B,4] y) <{ROWS}> {{{nodes}}}"
    model = parse(graph(text, opset=23, ir_version=11))
    data = {"x": normal(3, 4), "skip": normal(3, 4, seed=1)}
    before = run(model, data)
    assert apply(FuseSkipLayerNormalization(), model).applied == 1
    equivalent(before, model, data)


REFUSALS: dict[str, tuple[str, dict[str, str], str]] = {
    "skip broadcasts": (
        f"t = Add(x, skip) {NORM}",
        {"skip": "1,S,4"},
        "x ['B', 'S', 4] broadcasts against skip [1, 'S', 4]",
    ),
    "a constant is not a residual": (
        f"b = Relu(skip) c = Add(b, x) t = Add(c, bias) {NORM}",
        {},
        "c ['B', 'S', 4] broadcasts against bias [4]",
    ),
    "rank of skip is smaller": (
        f"t = Add(x, skip) {NORM}",
        {"skip": "S,4"},
        "x ['B', 'S', 4] broadcasts against skip ['S', 4]",
    ),
    "width unknown": (
        f"t = Add(x, skip) {NORM}",
        {"x": "B,S,H", "skip": "B,S,H", "y": "B,S,H"},
        "the length of the last axis of x is not known",
    ),
    "scale of one number": (
        f"t = Add(x, skip) {NORM}",
        {"rows": ROWS.replace("float[4] gamma = {1, 2, -1, 0.5}", "float[1] gamma = {2}")},
        "gamma [1] is not one row of 4 numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_change_the_result_is_refused_with_the_reason(name: str) -> None:
    nodes, changes, sentence = REFUSALS[name]
    model = model_of(nodes, **changes)
    before = operators(model)
    report = apply(FuseSkipLayerNormalization(), model)
    assert operators(model) == before
    assert sentence in sentences(report)


def test_two_axes_at_once_are_left_alone() -> None:
    model = parse(
        graph(
            "g (float[B,2,4] x, float[B,2,4] skip) => (float[B,2,4] y) <float[2,4] gamma = {1,2,3,4,5,6,7,8}> "
            "{t = Add(x, skip) y = LayerNormalization<axis=1>(t, gamma)}"
        )
    )
    assert apply(FuseSkipLayerNormalization(), model).applied == 0


def test_statistics_that_are_read_keep_the_normalization() -> None:
    model = parse(
        graph(
            f"g (float[B,4] x, float[B,4] skip) => (float[B,4] y, float[B,1] mean) <{ROWS}> "
            "{t = Add(x, skip) y, mean = LayerNormalization(t, gamma, beta)}"
        )
    )
    assert apply(FuseSkipLayerNormalization(), model).applied == 0


def test_half_precision_has_no_kernel() -> None:
    model = parse(
        graph(
            "g (float16[B,4] x, float16[B,4] skip) => (float16[B,4] y) "
            "{t = Add(x, skip) y = LayerNormalization(t, gamma)}"
        ),
        {"gamma": np.ones(4, np.float16)},
    )
    assert sentences(apply(FuseSkipLayerNormalization(), model)) == [
        "x is float16, and there is a kernel for float32 only"
    ]


LAYER = "p = MatMul(n, weight) u = Add(p, n) y = LayerNormalization(u, gamma)"
WEIGHT = {"weight": normal(4, 4, seed=9)}


@pytest.mark.parametrize("skip", ["P,S,4", "P,Q,4"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_sum_of_inputs_whose_sizes_have_different_names_stays_a_sum_but_not_what_follows(
    skip: str, batch: int
) -> None:
    nodes = f"t = Add(x, skip) n = LayerNormalization(t, gamma) {LAYER}"
    text = graph(f"g (float[B,S,4] x, float[{skip}] skip) => (float[X,Y,4] y) <{ROWS}> {{{nodes}}}")
    model = parse(text, WEIGHT)
    shapes.infer(model)
    data = {"x": normal(2, 3, 4), "skip": normal(batch, 3, 4, seed=1)}
    before = run(model, data)
    report = apply(FuseSkipLayerNormalization(), model)
    assert count(model)["turbo_onnx.SkipLayerNormalization"] == 1
    assert any(sentence.startswith("sizes of x and skip have different names") for sentence in sentences(report))
    for candidate in sessions(model):
        np.testing.assert_allclose(candidate.run(None, data)[0], before[0], rtol=1e-5, atol=1e-5)


def test_inputs_of_different_names_of_which_one_is_spread_over_the_other_are_one_shape() -> None:
    nodes = f"size = Shape(x) e = Expand(skip, size) t = Add(x, e) n = LayerNormalization(t, gamma) {LAYER}"
    model = parse(graph(f"g (float[B,S,4] x, float[1,1,4] skip) => (float[X,Y,4] y) <{ROWS}> {{{nodes}}}"), WEIGHT)
    shapes.infer(model)
    data = {"x": normal(2, 3, 4), "skip": normal(1, 1, 4, seed=1)}
    before = run(model, data)
    assert apply(FuseSkipLayerNormalization(), model).applied == 2
    equivalent(before, model, data)
