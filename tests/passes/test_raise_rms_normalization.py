"""RaiseRmsNormalization: every spelling of the chain becomes one operator, and look-alikes stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.fold_constants import FoldConstants
from turbo_onnx.passes.raise_layer_normalization import RaiseLayerNormalization
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization

RAISED = "turbo_onnx.raised.RMSNormalization"
CONSTANTS = """
  float[4] scale = {1.5, 0.5, -2.0, 1.0}, float two = {2.0}, float one = {1.0}, float half = {0.5},
  float minus_half = {-0.5}, float[1] eps = {0.00001}, int64[1] last = {-1}
"""


def chain(nodes: str, *, opset: int = 17, shape: str = "B,S,4", constants: str = CONSTANTS) -> Model:
    return parse(graph(f"g (float[{shape}] x) => (float[{shape}] y) <{constants}> {{{nodes}}}", opset=opset))


SHIFTED = "p = Pow(x, two) m = ReduceMean<axes=[-1]>(p) e = Add(m, eps)"
ROOT = f"{SHIFTED} s = Sqrt(e)"

SPELLINGS = {
    "one over the root": f"{ROOT} r = Div(one, s) n = Mul(x, r) y = Mul(scale, n)",
    "reciprocal": f"{ROOT} r = Reciprocal(s) n = Mul(r, x) y = Mul(n, scale)",
    "division": f"{ROOT} n = Div(x, s) y = Mul(n, scale)",
    "power of minus a half": f"{SHIFTED} r = Pow(e, minus_half) n = Mul(x, r) y = Mul(n, scale)",
    "root as power": f"{SHIFTED} s = Pow(e, half) n = Div(x, s) y = Mul(n, scale)",
    "square as product": "p = Mul(x, x) m = ReduceMean<axes=[2]>(p) e = Add(eps, m) s = Sqrt(e) n = Div(x, s) "
    "y = Mul(n, scale)",
    "scaled first": f"{ROOT} g = Mul(x, scale) y = Div(g, s)",
    "scaled first, then multiplied": f"{ROOT} r = Reciprocal(s) g = Mul(x, scale) y = Mul(g, r)",
    "scale folded into the factor": f"{ROOT} r = Reciprocal(s) f = Mul(scale, r) y = Mul(x, f)",
    "scale over the root": f"{ROOT} f = Div(scale, s) y = Mul(x, f)",
    "no scale": f"{ROOT} y = Div(x, s)",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_operator(name: str) -> None:
    model = chain(SPELLINGS[name])
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    report = apply(RaiseRmsNormalization(), model)
    assert report.applied == 1
    assert operators(model) == [RAISED]
    equivalent(before, model, inputs)


@pytest.mark.parametrize(("opset", "expected"), [(18, RAISED), (23, "RMSNormalization")])
def test_it_is_the_standard_operator_where_the_opset_has_it(opset: int, expected: str) -> None:
    nodes = "p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, eps) s = Sqrt(e) r = Reciprocal(s) n = Mul(x, r)"
    model = chain(f"{nodes} y = Mul(n, scale)", opset=opset)
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseRmsNormalization(), model)
    assert operators(model) == [expected]
    equivalent(before, model, inputs)


def test_the_scale_may_be_one_and_a_weight() -> None:
    model = chain(f"{ROOT} n = Div(x, s) g = Add(one, scale) y = Mul(n, g)")
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    FoldConstants().run(model)
    apply(RaiseRmsNormalization(), model)
    assert operators(model) == [RAISED]
    equivalent(before, model, inputs)


@pytest.mark.parametrize("scale", ["float[1,1,4] scale = {1.5, 0.5, -2.0, 1.0}", "float scale = {0.7}"])
def test_a_scale_of_another_shape_becomes_a_row(scale: str) -> None:
    constants = CONSTANTS.replace("float[4] scale = {1.5, 0.5, -2.0, 1.0}", scale)
    model = chain(SPELLINGS["division"], constants=constants)
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseRmsNormalization(), model)
    assert list(model.graph.nodes[0].inputs[1].shape) == [4]
    equivalent(before, model, inputs)


def test_epsilon_is_taken_over() -> None:
    model = chain(SPELLINGS["division"], constants=CONSTANTS.replace("0.00001", "0.5"))
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(RaiseRmsNormalization(), model)
    assert model.graph.nodes[0].attrs["epsilon"] == 0.5
    equivalent(before, model, inputs)


def test_of_a_half_precision_model_what_is_in_float32_is_raised() -> None:
    nodes = f"x = Cast<to=1>(h) {ROOT} r = Reciprocal(s) n = Mul(x, r) c = Cast<to=10>(n) y = Mul(w, c)"
    text = f"g (float16[B,4] h) => (float16[B,4] y) <{CONSTANTS}> {{{nodes}}}"
    model = parse(graph(text), {"w": np.array([1, 2, 0.5, -1], np.float16)})
    inputs = {"h": normal(5, 4).astype(np.float16)}
    before = run(model, inputs)
    apply(RaiseRmsNormalization(), model)
    assert operators(model) == ["Cast", RAISED, "Cast", "Mul"]
    equivalent(before, model, inputs, tolerance=2e-3)


REFUSALS: dict[str, tuple[str, str | None]] = {
    "another axis": (
        "p = Pow(x, two) m = ReduceMean<axes=[1]>(p) e = Add(m, eps) s = Sqrt(e) n = Div(x, s) y = Mul(n, scale)",
        "ReduceMean of m reduces axis 1, not the last",
    ),
    "all axes": (
        "p = Pow(x, two) m = ReduceMean(p) e = Add(m, eps) s = Sqrt(e) n = Div(x, s) y = Mul(n, scale)",
        "ReduceMean of m reduces all axes",
    ),
    "a cube": (SPELLINGS["division"].replace("two", "three"), "three is 3, not 2"),
    "epsilon outside of the root": (
        "p = Pow(x, two) m = ReduceMean<axes=[-1]>(p) s = Sqrt(m) e = Add(s, eps) n = Div(x, e) y = Mul(n, scale)",
        None,
    ),
    "something else is squared than divided": (
        f"{ROOT} a = Relu(x) n = Div(a, s) y = Mul(n, scale)",
        "x and a should be the same tensor",
    ),
    "a root that is read elsewhere": (
        f"{ROOT} n = Div(x, s) g = Mul(n, scale) y = Add(g, s)",
        "s is also read by Add of y",
    ),
    "epsilon below zero": (SPELLINGS["division"].replace("eps", "below"), "epsilon is -1.0"),
    "the inverse of the mean": (
        f"{SHIFTED} n = Div(x, e) y = Mul(n, scale)",
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_look_alikes_stay_and_the_report_says_why(name: str) -> None:
    nodes, sentence = REFUSALS[name]
    model = chain(nodes, shape="4,4,4", constants=CONSTANTS + ", float three = {3.0}, float below = {-1.0}")
    before = operators(model)
    report = apply(RaiseRmsNormalization(), model)
    assert report.applied == 0
    assert operators(model) == before
    assert sentence is None or sentence in sentences(report)


def test_a_scale_that_differs_from_row_to_row_stays_outside() -> None:
    constants = CONSTANTS + ", float[2,4] table = {1, 2, 3, 4, 5, 6, 7, 8}"
    model = chain(f"{ROOT} n = Div(x, s) y = Mul(n, table)", shape="B,2,4", constants=constants)
    inputs = {"x": normal(3, 2, 4)}
    before = run(model, inputs)
    apply(RaiseRmsNormalization(), model)
    assert count(model) == {RAISED: 1, "Mul": 1}
    equivalent(before, model, inputs)


def test_layer_normalization_is_something_else() -> None:
    nodes = "a = ReduceMean<axes=[-1]>(x) d = Sub(x, a) p = Pow(d, two) m = ReduceMean<axes=[-1]>(p) e = Add(m, eps)"
    model = chain(f"{nodes} s = Sqrt(e) n = Div(d, s) y = Mul(n, scale)")
    apply(RaiseLayerNormalization(), model)
    assert apply(RaiseRmsNormalization(), model).applied == 0
    assert operators(model) == ["LayerNormalization"]


def test_an_unknown_width_is_refused() -> None:
    model = chain(SPELLINGS["no scale"], shape="B,S,H")
    report = apply(RaiseRmsNormalization(), model)
    assert sentences(report) == ["the length of the last axis of x is not known"]


def test_double_keeps_its_digits() -> None:
    model = parse(
        graph(
            "g (double[B,4] x) => (double[B,4] y) <double two = {2.0}, double eps = {0.00001}> "
            f"{{{ROOT} y = Div(x, s)}}"
        )
    )
    report = apply(RaiseRmsNormalization(), model)
    assert sentences(report) == ["x is float64, and RMSNormalization computes in float32"]
