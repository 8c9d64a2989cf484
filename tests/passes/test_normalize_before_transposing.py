"""NormalizeBeforeTransposing: rows are normalized where they lie, and heads are rotated there as well."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_constants import ConvertConstants
from turbo_onnx.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from turbo_onnx.passes.normalize_before_transposing import NormalizeBeforeTransposing
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization

ROOT_MEAN_SQUARE = """two = Constant<value_float = 2.0>() small = Constant<value_float = 0.001>() s = Pow(t, two)
    m = ReduceMean<axes = [-1]>(s) e = Add(m, small) d = Sqrt(e) n = Div(t, d) y = Mul(n, scale)"""
CONSTANTS = "float[4] scale = {1, 2, 3, 4}, float[4] shift = {4, 3, 2, 1}"


def model(nodes: str, outputs: str = "float[B,2,S,4] y", inputs: str = "float[B,S,2,4] x") -> Model:
    weights = {"wide": normal(2, 4), "by_head": normal(2, 1, 4)}
    result = parse(graph(f"g ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {nodes} }}"), weights)
    ConvertConstants().run(result)
    result = cleaned(result)
    RaiseRmsNormalization().run(result)
    shapes.infer(result)
    return result


HEADS_FIRST = "t = Transpose<perm = [0,2,1,3]>(x)"
MOVED = {
    "root mean square": f"{HEADS_FIRST} {ROOT_MEAN_SQUARE}",
    "layer normalization": f"{HEADS_FIRST} y = LayerNormalization(t, scale, shift)",
    "without a shift": f"{HEADS_FIRST} y = LayerNormalization<epsilon = 0.1>(t, scale)",
    "an axis counted from the front": f"{HEADS_FIRST} y = LayerNormalization<axis = 3>(t, scale)",
    "two axes at the end": "t = Transpose<perm = [1,0,2,3]>(x) y = LayerNormalization<axis = 2>(t, wide)",
    "three axes that go around": "t = Transpose<perm = [2,0,1,3]>(x) y = LayerNormalization(t, scale)",
}
SHAPES = {
    "two axes at the end": "float[S,B,2,4] y",
    "three axes that go around": "float[2,B,S,4] y",
}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("sizes", [(3, 5), (1, 1), (2, 0)])
def test_rows_are_normalized_where_they_lie(name: str, sizes: tuple[int, int]) -> None:
    before, after = (model(MOVED[name], SHAPES.get(name, "float[B,2,S,4] y")) for _ in range(2))
    assert apply(NormalizeBeforeTransposing(), after).applied == 1
    assert operators(after) == operators(before)[::-1]
    data = {"x": normal(*sizes, 2, 4)}
    equivalent(run(before, data), after, data)


KEPT = {
    "an axis that moves": ("t = Transpose<perm = [0,1,3,2]>(x) y = LayerNormalization(t, moved)", "float[B,S,4,2] y"),
    "two axes of which one moves": (f"{HEADS_FIRST} y = LayerNormalization<axis = 2>(t, odd)", "float[B,2,S,4] y"),
    "a scale for each head": (f"{HEADS_FIRST} y = LayerNormalization(t, by_head)", "float[B,2,S,4] y"),
    "a Transpose that is read elsewhere": (
        f"{HEADS_FIRST} y = LayerNormalization(t, scale) z = Exp(t)",
        "float[B,2,S,4] y, float[B,2,S,4] z",
    ),
    "a Transpose that is an output": (
        f"{HEADS_FIRST} y = LayerNormalization(t, scale)",
        "float[B,2,S,4] y, float[B,2,S,4] t",
    ),
    "means that are read": (
        f"{HEADS_FIRST} y, mean = LayerNormalization(t, scale)",
        "float[B,2,S,4] y, float[B,2,S,1] mean",
    ),
    "nothing transposed": ("y = LayerNormalization(x, scale)", "float[B,S,2,4] y"),
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    nodes, outputs = KEPT[name]
    inputs = "float[B,S,2,4] x, float[2] moved, float[S,4] odd"
    left = model(nodes, outputs, inputs)
    before = operators(left)
    assert apply(NormalizeBeforeTransposing(), left).applied == 0
    assert operators(left) == before


ROTATED = f"""{HEADS_FIRST} {ROOT_MEAN_SQUARE.replace("y =", "k =")} a = Mul(k, cosines)
    zero = Constant<value_ints = [0]>() half = Constant<value_ints = [2]>() end = Constant<value_ints = [9]>()
    axis = Constant<value_ints = [3]>() first = Slice(k, zero, half, axis) second = Slice(k, half, end, axis)
    minus = Neg(second) turned = Concat<axis = -1>(minus, first) c = Mul(turned, sines) added = Add(a, c)
    y = Concat<axis = 2>(past, added)"""


def test_keys_that_are_normalized_by_head_are_rotated_and_appended_to_a_cache() -> None:
    inputs = "float[B,S,2,4] x, float[B,2,P,4] past, float[B,1,S,4] cosines, float[B,1,S,4] sines"
    before, after = (model(ROTATED, "float[B,2,L,4] y", inputs) for _ in range(2))
    NormalizeBeforeTransposing().run(after)
    shapes.infer(after)
    assert apply(FuseRotaryEmbedding(), after).applied == 1
    assert count(after)["Transpose"] == 1
    data = {
        "x": normal(2, 3, 2, 4),
        "past": normal(2, 2, 5, 4, seed=1),
        "cosines": normal(2, 1, 3, 4, seed=2),
        "sines": normal(2, 1, 3, 4, seed=3),
    }
    equivalent(run(before, data), after, data)
