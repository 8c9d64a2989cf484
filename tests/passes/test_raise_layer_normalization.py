"""RaiseLayerNormalization: every spelling of the chain becomes one operator, and look-alikes stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.raise_layer_normalization import RaiseLayerNormalization
from turbo_onnx.passes.raise_opset import RaiseOpset

CONSTANTS = """
  float[4] scale = {1.5, 0.5, -2.0, 1.0}, float[4] bias = {0.1, -0.2, 0.3, 0.4},
  float two = {2.0}, float one = {1.0}, float half = {0.5}, float[1] eps = {0.00001}, int64[1] last = {-1}
"""


def chain(nodes: str, *, opset: int = 17, shape: str = "B,S,4", constants: str = CONSTANTS) -> Model:
    return parse(graph(f"g (float[{shape}] x) => (float[{shape}] y) <{constants}> {{{nodes}}}", opset=opset))


MEAN = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m)"
SQUARE = f"{MEAN} p = Pow(d, two) v = ReduceMean<axes=[-1]>(p)"
DEVIATION = f"{SQUARE} e = Add(v, eps) s = Sqrt(e)"
NORMAL = f"{DEVIATION} n = Div(d, s)"

SPELLINGS = {
    "nine nodes": f"{NORMAL} g = Mul(n, scale) y = Add(g, bias)",
    "operands the other way round": f"""
        {SQUARE} e = Add(eps, v) s = Sqrt(e) n = Div(d, s) g = Mul(scale, n) y = Add(bias, g)""",
    "no scale, no bias": f"{DEVIATION} y = Div(d, s)",
    "no bias": f"{NORMAL} y = Mul(n, scale)",
    "no scale": f"{NORMAL} y = Add(n, bias)",
    "square as product": f"""
        {MEAN} p = Mul(d, d) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) n = Div(d, s)
        g = Mul(n, scale) y = Add(g, bias)""",
    "difference computed twice": """
        m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) d2 = Sub(x, m) p = Pow(d2, two) v = ReduceMean<axes=[-1]>(p)
        e = Add(v, eps) s = Sqrt(e) n = Div(d, s) g = Mul(n, scale) y = Add(g, bias)""",
    "mean computed twice": """
        m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) m2 = ReduceMean<axes=[-1]>(x) d2 = Sub(x, m2) p = Mul(d2, d2)
        v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) g = Mul(n, scale) y = Add(g, bias)""",
    "last axis as a positive number": """
        m = ReduceMean<axes=[2]>(x) d = Sub(x, m) p = Pow(d, two) v = ReduceMean<axes=[2]>(p)
        e = Add(v, eps) s = Sqrt(e) n = Div(d, s) g = Mul(n, scale) y = Add(g, bias)""",
    "reciprocal": f"{DEVIATION} r = Reciprocal(s) n = Mul(d, r) g = Mul(n, scale) y = Add(g, bias)",
    "one over the deviation": f"{DEVIATION} r = Div(one, s) n = Mul(r, d) g = Mul(n, scale) y = Add(g, bias)",
    "root as power": f"{SQUARE} e = Add(v, eps) s = Pow(e, half) n = Div(d, s) g = Mul(n, scale) y = Add(g, bias)",
    "scale folded into the factor": f"""
        {DEVIATION} r = Reciprocal(s) f = Mul(r, scale) a = Mul(x, f) b = Mul(m, f) c = Sub(bias, b) y = Add(a, c)""",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_operator(name: str) -> None:
    model = chain(SPELLINGS[name])
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    report = apply(RaiseLayerNormalization(), model)
    assert report.applied == 1
    assert operators(model) == ["LayerNormalization"]
    equivalent(before, model, inputs)


def test_axes_as_an_input_from_opset_18() -> None:
    model = chain(
        "m = ReduceMean(x, last) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps) s = Sqrt(e) "
        "n = Div(d, s) g = Mul(n, scale) y = Add(g, bias)",
        opset=18,
    )
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseLayerNormalization(), model)
    assert operators(model) == ["LayerNormalization"]
    equivalent(before, model, inputs)


def test_epsilon_is_taken_over() -> None:
    model = chain(SPELLINGS["nine nodes"], constants=CONSTANTS.replace("0.00001", "0.5"))
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseLayerNormalization(), model)
    assert model.graph.nodes[0].attrs["epsilon"] == 0.5
    equivalent(before, model, inputs)


def test_scale_with_axes_of_one_becomes_a_row() -> None:
    constants = CONSTANTS.replace("float[4] scale", "float[1,1,4] scale").replace(
        "float[4] bias = {0.1, -0.2, 0.3, 0.4}", "float bias = {0.7}"
    )
    model = chain(SPELLINGS["nine nodes"], constants=constants)
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseLayerNormalization(), model)
    assert [list(tensor.shape) for tensor in model.graph.nodes[0].inputs[1:]] == [[4], [4]]
    equivalent(before, model, inputs)


def test_a_residual_sum_behind_it_is_not_taken_for_the_bias() -> None:
    model = chain(f"{NORMAL} g = Mul(n, scale) y = Add(g, x)")
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    report = apply(RaiseLayerNormalization(), model)
    assert count(model) == {"LayerNormalization": 1, "Add": 1}
    assert sentences(report) == []
    equivalent(before, model, inputs)


def test_a_table_added_behind_it_is_not_taken_for_the_bias() -> None:
    model = chain(
        f"{NORMAL} g = Mul(n, scale) y = Add(g, table)",
        shape="B,2,4",
        constants=CONSTANTS + ", float[2,4] table = {1, 2, 3, 4, 5, 6, 7, 8}",
    )
    inputs = {"x": normal(3, 2, 4)}
    before = run(model, inputs)
    report = apply(RaiseLayerNormalization(), model)
    assert count(model) == {"LayerNormalization": 1, "Add": 1}
    assert sentences(report) == []
    equivalent(before, model, inputs)


REFUSALS = {
    "another axis": (
        NORMAL.replace("axes=[-1]>(p)", "axes=[1]>(p)") + " g = Mul(n, scale) y = Add(g, bias)",
        "ReduceMean of v reduces axis 1, not the last",
    ),
    "all axes": (
        NORMAL.replace("<axes=[-1]>(p)", "(p)") + " g = Mul(n, scale) y = Add(g, bias)",
        "ReduceMean of v reduces all axes",
    ),
    "a cube": (
        NORMAL.replace("two", "three") + " g = Mul(n, scale) y = Add(g, bias)",
        "three is 3, not 2",
    ),
    "epsilon outside of the root": (
        f"{SQUARE} s = Sqrt(v) e = Add(s, eps) n = Div(d, e) g = Mul(n, scale) y = Add(g, bias)",
        "expected Sqrt, but e is computed by Add (Add of e)",
    ),
    "a difference read elsewhere": (
        f"{NORMAL} g = Mul(n, scale) h = Add(g, bias) y = Add(h, d)",
        "d is also read by Add of y",
    ),
    "epsilon below zero": (
        f"{NORMAL} g = Mul(n, scale) y = Add(g, bias)".replace("eps", "below"),
        "epsilon is -1.0",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_look_alikes_stay_and_the_report_says_why(name: str) -> None:
    nodes, sentence = REFUSALS[name]
    model = chain(nodes, shape="4,4,4", constants=CONSTANTS + ", float three = {3.0}, float below = {-1.0}")
    before = operators(model)
    report = apply(RaiseLayerNormalization(), model)
    assert report.applied == 0
    assert operators(model) == before
    assert sentence in sentences(report)


def test_root_mean_square_normalization_is_something_else() -> None:
    model = chain(
        "p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) n = Div(x, s) y = Mul(n, scale)"
    )
    assert apply(RaiseLayerNormalization(), model).applied == 0


def test_below_opset_17_there_is_no_such_operator() -> None:
    model = chain(SPELLINGS["nine nodes"], opset=13)
    report = apply(RaiseLayerNormalization(), model)
    assert report.applied == 0
    assert "LayerNormalization needs opset 17, and the model stays at 13" in sentences(report)


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16])
def test_with_the_opset_raised_first_it_is_found_in_older_models(opset: int) -> None:
    model = chain(SPELLINGS["nine nodes"], opset=opset)
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseOpset(), model)
    apply(RaiseLayerNormalization(), model)
    assert operators(model) == ["LayerNormalization"]
    equivalent(before, model, inputs)


def test_an_unknown_width_is_refused() -> None:
    model = chain(SPELLINGS["no scale, no bias"], shape="B,S,H")
    report = apply(RaiseLayerNormalization(), model)
    assert sentences(report) == ["the length of the last axis of x is not known"]


def test_double_keeps_its_digits() -> None:
    model = parse(
        graph(
            "g (double[B,4] x) => (double[B,4] y) <double two = {2.0}, double eps = {0.00001}> "
            f"{{{DEVIATION} y = Div(d, s)}}"
        )
    )
    report = apply(RaiseLayerNormalization(), model)
    assert sentences(report) == ["x is float64, and LayerNormalization computes in float32"]


def test_each_of_many_is_found() -> None:
    layers, source = "", "x"
    for layer in range(6):
        step = f"{NORMAL} g = Mul(n, scale) h = Add(g, bias) y = Add(h, x)"
        for name in ("m", "d", "p", "v", "e", "s", "n", "g", "h", "y"):
            step = (
                step.replace(f"{name} = ", f"{name}{layer} = ")
                .replace(f"({name}", f"({name}{layer}")
                .replace(f", {name})", f", {name}{layer})")
            )
        layers += step.replace("(x", f"({source}").replace(", x)", f", {source})")
        source = f"y{layer}"
    model = chain(layers + f" y = Identity({source})")
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    report = apply(RaiseLayerNormalization(), model)
    assert report.applied == 6
    assert count(model) == {"LayerNormalization": 6, "Add": 6, "Identity": 1}
    assert [node.op for node in model.graph.nodes[:2]] == ["LayerNormalization", "Add"]
    equivalent(before, model, inputs)
    assert np.isfinite(before[0]).all()
