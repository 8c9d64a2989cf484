"""CancelTransposes: two opposite Transposes around row-wise work go, and nothing else does."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import apply, count, equivalent, graph, normal, parse, run
from turbo_onnx.model import Model
from turbo_onnx.passes.cancel_transposes import CancelTransposes


def model_of(nodes: str, outputs: str = "float[B,S,8] y") -> Model:
    text = graph(f"g (float[B,S,8] x) => ({outputs}) <float[8] b = {{1,2,3,4,5,6,7,8}}> {{ {nodes} }}")
    return cleaned(parse(text, {"w": normal(8, 8), "column": normal(3, 1, 8)}))


FIRST = "t = Transpose<perm = [1,0,2]>(x)"
GONE = {
    "nothing between": f"{FIRST} y = Transpose<perm = [1,0,2]>(t)",
    "a linear layer": f"{FIRST} m = MatMul(t, w) a = Add(b, m) y = Transpose<perm = [1,0,2]>(a)",
    "an activation": f"{FIRST} m = MatMul(t, w) a = Relu(m) c = Mul(a, b) y = Transpose<perm = [1,0,2]>(c)",
}


@pytest.mark.parametrize("name", GONE)
def test_opposite_transposes_go(name: str) -> None:
    nodes = GONE[name] if name != "nothing between" else f"{GONE[name].replace('y =', 'z =')} y = Relu(z)"
    before, after = model_of(nodes), model_of(nodes)
    assert apply(CancelTransposes(), after).applied == 1
    assert count(after)["Transpose"] == 0
    data = {"x": normal(2, 3, 8, seed=1)}
    equivalent(run(before, data), after, data)


KEPT = {
    "softmax over rows": f"{FIRST} m = Softmax<axis = 0>(t) y = Transpose<perm = [1,0,2]>(m)",
    "an operand with rows of its own": f"{FIRST} m = Add(t, column) y = Transpose<perm = [1,0,2]>(m)",
    "columns change places": "t = Transpose<perm = [0,2,1]>(x) m = Relu(t) y = Transpose<perm = [0,2,1]>(m)",
    "not opposite": "t = Transpose<perm = [1,0,2]>(x) m = Relu(t) y = Transpose<perm = [0,1,2]>(m)",
    "read in between": f"{FIRST} m = Relu(t) y0 = Transpose<perm = [1,0,2]>(m) e = ReduceSum<keepdims = 0>(m) "
    "y = Add(y0, e)",
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    outputs = "float[S,B,8] y" if name == "not opposite" else "float[B,S,8] y"
    model = model_of(KEPT[name], outputs)
    assert apply(CancelTransposes(), model).applied == 0
    assert count(model)["Transpose"] == 2
