"""RaiseGelu: both functions in every order of their factors, and what only looks like them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.raise_gelu import RaiseGelu

CONSTANTS = """
  float root2 = {1.4142135381698608}, float inverse_root2 = {0.70710677}, float one = {1.0}, float half = {0.5},
  float two = {2.0}, float three = {3.0}, float cubic = {0.044715}, float[1] factor = {0.7978845608}
"""


def chain(nodes: str, *, opset: int = 17, constants: str = CONSTANTS) -> Model:
    return parse(graph(f"g (float[B,S,8] x) => (float[B,S,8] y) <{constants}> {{{nodes}}}", opset=opset))


ERROR = "d = Div(x, root2) e = Erf(d) a = Add(e, one)"

ERF = {
    "torch": f"{ERROR} m = Mul(x, a) y = Mul(m, half)",
    "half of x first": f"{ERROR} h = Mul(x, half) y = Mul(h, a)",
    "half of x second": f"{ERROR} h = Mul(half, x) y = Mul(a, h)",
    "half of the sum": f"{ERROR} h = Mul(half, a) y = Mul(x, h)",
    "sum the other way round": "d = Div(x, root2) e = Erf(d) a = Add(one, e) m = Mul(a, x) y = Mul(half, m)",
    "product with the inverse root": f"{ERROR} m = Mul(x, a) y = Mul(m, half)".replace(
        "Div(x, root2)", "Mul(inverse_root2, x)"
    ),
    "half distributed": "d = Div(x, root2) e = Erf(d) h = Mul(e, half) a = Add(h, half) y = Mul(x, a)",
    "division by two": f"{ERROR} m = Mul(x, a) y = Div(m, two)",
}

TANH_ARGUMENTS = {
    "power": "p = Pow(x, three) q = Mul(p, cubic) r = Add(x, q) t = Mul(r, factor)",
    "product of three": "s = Mul(x, x) p = Mul(s, x) q = Mul(cubic, p) r = Add(q, x) t = Mul(factor, r)",
    "square first": "s = Mul(x, x) p = Mul(x, s) q = Mul(cubic, p) r = Add(x, q) t = Mul(factor, r)",
    "coefficient first": "a1 = Mul(cubic, x) a2 = Mul(a1, x) q = Mul(a2, x) r = Add(x, q) t = Mul(r, factor)",
    "coefficient times square": "s = Mul(x, x) a2 = Mul(cubic, s) q = Mul(a2, x) r = Add(x, q) t = Mul(r, factor)",
    "x factored out": "s = Mul(x, x) q = Mul(s, cubic) r = Add(one, q) u = Mul(x, r) t = Mul(u, factor)",
    "x times the root first": "u = Mul(x, factor) a1 = Mul(cubic, x) q = Mul(a1, x) r = Add(q, one) t = Mul(u, r)",
}

TANH = {
    **{
        name: f"{nodes} h = Tanh(t) a = Add(h, one) m = Mul(x, a) y = Mul(half, m)"
        for name, nodes in TANH_ARGUMENTS.items()
    },
    "half of x": f"{TANH_ARGUMENTS['power']} h = Tanh(t) a = Add(one, h) b = Mul(x, half) y = Mul(b, a)",
    "half of the sum": f"{TANH_ARGUMENTS['power']} h = Tanh(t) a = Add(one, h) b = Mul(a, half) y = Mul(x, b)",
}


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize(("approximate", "name"), [("none", n) for n in ERF] + [("tanh", n) for n in TANH])
def test_every_spelling_becomes_one_operator(approximate: str, name: str, opset: int) -> None:
    model = chain((ERF if approximate == "none" else TANH)[name], opset=opset)
    inputs = {"x": 2.0 * normal(2, 3, 8)}
    before = run(model, inputs)
    report = apply(RaiseGelu(), model)
    assert report.applied == 1
    assert operators(model) == ["Gelu" if opset >= 20 else "turbo_onnx.raised.Gelu"]
    assert model.graph.nodes[0].attrs["approximate"] == approximate
    equivalent(before, model, inputs)


REFUSALS = {
    "another root": (ERF["torch"].replace("root2", "three"), "three is 3, not 1.41421356"),
    "another coefficient": (TANH["power"].replace("cubic", "one"), "one is 1, not 0.044715"),
    "another tensor gated": (
        f"z = Relu(x) {ERF['torch'].replace('Mul(x, a)', 'Mul(z, a)')}",
        "x and z should be the same tensor",
    ),
    "the error function read elsewhere": (
        f"{ERROR} m = Mul(x, a) b = Mul(m, half) y = Mul(b, e)",
        "e is also read by Mul of y",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_look_alikes_stay_and_the_report_says_why(name: str) -> None:
    nodes, sentence = REFUSALS[name]
    model = chain(nodes)
    before = operators(model)
    report = apply(RaiseGelu(), model)
    assert report.applied == 0
    assert operators(model) == before
    assert sentence in sentences(report)


@pytest.mark.parametrize("alpha", [1.0, 1.702])
def test_gates_with_a_sigmoid_are_other_functions(alpha: float) -> None:
    model = chain("a = Mul(x, alpha) s = Sigmoid(a) y = Mul(x, s)", constants=f"float alpha = {{{alpha}}}")
    report = apply(RaiseGelu(), model)
    assert report.applied == 0
    assert report.rejected == []


@pytest.mark.parametrize("opset", [17, 20])
def test_what_is_left_in_half_precision_stays(opset: int) -> None:
    text = f"g (float16[4] x) => (float16[4] y) {{{ERF['torch']}}}"
    weights = {"root2": np.float16(2**0.5), "one": np.float16(1.0), "half": np.float16(0.5)}
    report = apply(RaiseGelu(), parse(graph(text, opset=opset), weights))
    assert sentences(report) == ["x is float16, and what is left in half precision keeps its roundings"]


def test_double_precision_waits_for_opset_20() -> None:
    text = f"g (double[4] x) => (double[4] y) {{{ERF['torch']}}}"
    weights = {"root2": np.float64(2**0.5), "one": np.float64(1.0), "half": np.float64(0.5)}
    early, late = parse(graph(text, opset=17), weights), parse(graph(text, opset=20), weights)
    assert sentences(apply(RaiseGelu(), early)) == ["x is float64, for which opset 17 has no Gelu"]
    assert apply(RaiseGelu(), late).applied == 1


def test_two_that_share_their_input_are_both_found() -> None:
    model = chain(
        f"{ERROR} m = Mul(x, a) n = Mul(m, half) d2 = Div(n, root2) e2 = Erf(d2) a2 = Add(e2, one) m2 = Mul(n, a2) "
        "y1 = Mul(m2, half) y = Add(y1, n)"
    )
    inputs = {"x": normal(2, 3, 8)}
    before = run(model, inputs)
    assert apply(RaiseGelu(), model).applied == 2
    assert count(model) == {"turbo_onnx.raised.Gelu": 2, "Add": 1}
    equivalent(before, model, inputs)
