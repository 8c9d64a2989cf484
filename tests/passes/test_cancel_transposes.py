"""CancelTransposes: two opposite Transposes around row-wise work go, and nothing else does."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run
from turbo_onnx.model import Model
from turbo_onnx.passes.cancel_transposes import CancelTransposes
from turbo_onnx.passes.convert_constants import ConvertConstants
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization


def prepared(model: Model) -> Model:
    ConvertConstants().run(model)
    return cleaned(model)


def model_of(nodes: str, outputs: str = "float[B,S,8] y", inputs: str = "float[B,S,8] x") -> Model:
    text = graph(f"g ({inputs}) => ({outputs}) <float[8] b = {{1,2,3,4,5,6,7,8}}> {{ {nodes} }}")
    return prepared(parse(text, {"w": normal(8, 8), "column": normal(3, 1, 8), "plane": normal(2, 8)}))


FIRST = "t = Transpose<perm = [1,0,2]>(x)"
LAST = "y = Transpose<perm = [1,0,2]>(m)"
GONE = {
    "nothing between": f"{FIRST} z = Transpose<perm = [1,0,2]>(t) y = Relu(z)",
    "a linear layer": f"{FIRST} a = MatMul(t, w) m = Add(b, a) {LAST}",
    "an activation": f"{FIRST} a = MatMul(t, w) c = Relu(a) m = Mul(c, b) {LAST}",
    "a constant for each row": f"{FIRST} m = Add(t, column) {LAST}",
    "columns that change places": "t = Transpose<perm = [0,2,1]>(x) m = Relu(t) y = Transpose<perm = [0,2,1]>(m)",
    "two ways that join": f"{FIRST} a = Relu(t) c = Neg(t) d = MatMul(c, w) m = Add(a, d) {LAST}",
    "halves": f"""{FIRST} two = Constant<value_ints = [4, 4]>() c, d = Split<axis = 2>(t, two) e = Neg(d)
        m = Concat<axis = -1>(e, c) {LAST}""",
    "a mean over each row": f"""{FIRST} a = Mul(t, t) two = Constant<value_ints = [2]>()
        d = ReduceMean<axes = [-1]>(a) m = Div(t, d) {LAST}""",
    "a mean over the sequence": f"{FIRST} d = ReduceMean<axes = [0]>(t) m = Sub(t, d) {LAST}",
    "a normalization": f"{FIRST} m = LayerNormalization(t, b, b) {LAST}",
    "softmax over columns": f"{FIRST} m = Softmax(t) {LAST}",
    "regrouped columns": f"""{FIRST} pairs = Constant<value_ints = [0, 0, 4, 2]>()
        row = Constant<value_ints = [0, 0, 8]>() a = Reshape(t, pairs) one = Constant<value_ints = [1]>()
        first = Constant<value_ints = [0]>() three = Constant<value_ints = [3]>() c = Slice(a, first, one, three)
        e = Mul(a, c) m = Reshape(e, row) {LAST}""",
    "every other column": f"""{FIRST} zero = Constant<value_ints = [0]>() end = Constant<value_ints = [8]>()
        axis = Constant<value_ints = [-1]>() two = Constant<value_ints = [2]>() a = Slice(t, zero, end, axis, two)
        c = Unsqueeze(a, axis) e = Concat<axis = -1>(c, c) row = Constant<value_ints = [0, 0, 8]>()
        m = Reshape(e, row) {LAST}""",
    "a computed number for each position": f"""{FIRST} axes = Constant<value_ints = [0, 2]>()
        means = ReduceMean<axes = [0, 2]>(x) p = Transpose<perm = [1,0,2]>(means) m = Add(t, p) {LAST}""",
}


@pytest.mark.parametrize("name", GONE)
def test_opposite_transposes_go(name: str) -> None:
    before, after = model_of(GONE[name]), model_of(GONE[name])
    computed = name == "a computed number for each position"
    assert apply(CancelTransposes(), after).applied == 1
    assert count(after)["Transpose"] == 0 if not computed else count(after)["Transpose"] <= 1
    data = {"x": normal(2, 3, 8, seed=1)}
    equivalent(run(before, data), after, data)


def test_a_raised_normalization_lets_them_pass() -> None:
    square = "two = Constant<value_float = 2.0>() eps = Constant<value_float = 0.5>() p = Pow(t, two)"
    chain = f"{square} a = ReduceMean<axes = [-1]>(p) e = Add(a, eps) s = Sqrt(e) n = Div(t, s) m = Mul(n, b)"
    before, after = (model_of(f"{FIRST} {chain} {LAST}") for _ in range(2))
    RaiseRmsNormalization().run(after)
    assert apply(CancelTransposes(), after).applied == 1
    assert operators(after) == ["turbo_onnx.raised.RMSNormalization"]
    data = {"x": normal(2, 3, 8, seed=1)}
    equivalent(run(before, data), after, data)


def test_what_heads_have_in_common_is_brought_to_the_other_order_by_itself() -> None:
    rotated = """
        heads = Constant<value_ints = [0, 0, 2, 4]>() four = Reshape(x, heads) t = Transpose<perm = [0,2,1,3]>(four)
        a = Mul(t, cosines) zero = Constant<value_ints = [0]>() half = Constant<value_ints = [2]>()
        end = Constant<value_ints = [9]>() axis = Constant<value_ints = [3]>() first = Slice(t, zero, half, axis)
        second = Slice(t, half, end, axis) minus = Neg(second) turned = Concat<axis = -1>(minus, first)
        c = Mul(turned, sines) m = Add(a, c) back = Transpose<perm = [0,2,1,3]>(m)
        row = Constant<value_ints = [0, 0, 8]>() y = Reshape(back, row)"""
    angles = "float[1,1,S,4] cosines, float[S,4] sines"
    text = graph(f"g (float[B,S,8] x, {angles}) => (float[B,S,8] y) {{ {rotated} }}")
    before, after = prepared(parse(text)), prepared(parse(text))
    assert apply(CancelTransposes(), after).applied == 1
    wide = [node for node in after.graph.nodes if node.op == "Transpose" and node.inputs[0].shape[0] == "B"]
    assert not wide
    data = {"x": normal(2, 3, 8), "cosines": normal(1, 1, 3, 4, seed=1), "sines": normal(3, 4, seed=2)}
    equivalent(run(before, data), after, data)


KEPT = {
    "softmax over rows": f"{FIRST} m = Softmax<axis = 0>(t) {LAST}",
    "normalization over rows and columns": f"{FIRST} m = LayerNormalization<axis = 1>(t, plane) {LAST}",
    "an operand of the other order": f"{FIRST} m = Add(t, z) {LAST}",
    "rows that are regrouped": f"""{FIRST} flat = Constant<value_ints = [-1, 1, 8]>() a = Reshape(t, flat)
        back = Shape(t) m = Reshape(a, back) {LAST}""",
    "not opposite": "t = Transpose<perm = [1,0,2]>(x) m = Relu(t) y = Transpose<perm = [0,1,2]>(m)",
    "read in between": f"{FIRST} m = Relu(t) y0 = Transpose<perm = [1,0,2]>(m) e = ReduceSum<keepdims = 0>(m) "
    "y = Add(y0, e)",
    "an output in between": f"{FIRST} m = Relu(t) {LAST}",
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    outputs = "float[S,B,8] y" if name == "not opposite" else "float[B,S,8] y"
    if name == "an output in between":
        outputs += ", float[S,B,8] m"
    model = model_of(KEPT[name], outputs, "float[B,S,8] x, float[S,B,8] z")
    before = count(model)["Transpose"]
    assert apply(CancelTransposes(), model).applied == 0
    assert count(model)["Transpose"] == before == 2


PARTS = f"{FIRST} two = Constant<value_ints = [4, 4]>() c, d = Split<axis = 2>(t, two)"
ENDS = {
    "each transposed": ("e = Neg(c) y = Transpose<perm = [1,0,2]>(e) z = Transpose<perm = [1,0,2]>(d)", 2, 0),
    "one of them read as it is": ("y = Transpose<perm = [1,0,2]>(c) e = Neg(d) z = Transpose<perm = [2,1,0]>(e)", 1, 2),
    "one of them an output": ("y = Transpose<perm = [1,0,2]>(c) z = Transpose<perm = [2,1,0]>(d)", 1, 2),
}


@pytest.mark.parametrize("name", ENDS)
def test_parts_of_what_is_transposed_are_looked_at_one_by_one(name: str) -> None:
    ends, applied, left = ENDS[name]
    outputs = "float[B,S,4] y, float[P,Q,R] z" + (", float[S,B,4] d" if name == "one of them an output" else "")
    before, after = model_of(f"{PARTS} {ends}", outputs), model_of(f"{PARTS} {ends}", outputs)
    assert apply(CancelTransposes(), after).applied == applied
    assert count(after)["Transpose"] == left
    data = {"x": normal(2, 3, 8, seed=1)}
    equivalent(run(before, data), after, data)


def test_parts_that_are_changed_before_they_are_divided_stay() -> None:
    nodes = f"{FIRST} m = Relu(t) two = Constant<value_ints = [4, 4]>() c, d = Split<axis = 2>(m, two) "
    model = model_of(f"{nodes} y = Transpose<perm = [1,0,2]>(c) z = Neg(d)", "float[B,S,4] y, float[S,B,4] z")
    assert apply(CancelTransposes(), model).applied == 0


def test_a_part_that_is_read_as_it_is_has_its_axes_in_the_order_it_had() -> None:
    nodes = """
        heads = Constant<value_ints = [0, 0, 2, 4]>() four = Reshape(x, heads) t = Transpose<perm = [2,0,1,3]>(four)
        two = Constant<value_ints = [2, 2]>() c, d = Split<axis = 3>(t, two) y = Transpose<perm = [1,2,0,3]>(c)
        z = Neg(d)"""
    outputs = "float[B,S,2,2] y, float[2,B,S,2] z"
    before, after = model_of(nodes, outputs), model_of(nodes, outputs)
    assert apply(CancelTransposes(), after).applied == 1
    data = {"x": normal(3, 4, 8, seed=1)}
    equivalent(run(before, data), after, data)
