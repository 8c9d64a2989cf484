"""FoldConstants: what depends on constants only is computed once, to the bit as ONNX Runtime would."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.clean_graphs import rewritten
from tests.passes.support import count, normal
from turbo_onnx.passes.fold_constants import LARGEST_RESULT, FoldConstants

X = {"x": np.ones((2, 3), np.float32)}

EXACT = {
    "a chain": ("float[3]", "s = Add(c, c) t = Mul(s, c) k = Neg(t)"),
    "integer division of negative numbers": ("int64[3]", "k = Div(i, three)"),
    "remainder of negative numbers": ("int64[3]", "k = Mod(i, three)"),
    "remainder with the dividend's sign": ("int64[3]", "k = Mod<fmod = 1>(i, three)"),
    "fractions cut": ("int64[3]", "k = Cast<to = 7>(c)"),
    "a number to a truth": ("bool[3]", "k = Cast<to = 9>(i)"),
    "halves": ("float16[3]", "k = Cast<to = 10>(c)"),
    "roots": ("float[3]", "a = Abs(c) k = Sqrt(a)"),
    "reciprocals": ("float[3]", "k = Reciprocal(c)"),
    "a choice": ("float[3]", "b = Greater(c, zero) k = Where(b, c, zero)"),
    "an arange": ("int64[3]", "k = Range(nought, top, one)"),
    "a shape": ("int64[2]", "k = Shape(w)"),
    "a shape in part": ("int64[1]", "k = Shape<start = -1>(w)"),
    "a size": ("int64", "k = Size(w)"),
    "a fill": ("float[2,3]", "s = Shape(w) k = ConstantOfShape(s)"),
    "a fill of ones": ("int64[2,3]", "s = Shape(w) k = ConstantOfShape<value = int64[1] {1}>(s)"),
    "a lookup from the end": ("float[1]", "k = Gather(c, last)"),
    "a slice backwards": ("float[3]", "k = Slice(c, last, far, ax, last)"),
    "a transposition": ("float[3,2]", "k = Transpose(w)"),
    "a triangle": ("float[2,3]", "k = Trilu<upper = 0>(w)"),
    "a maximum": ("float[1]", "k = ReduceMax(c)"),
    "pieces": ("float[1]", "k, rest = Split(c, sizes) r = Neg(rest)"),
    "no elements": ("float[0]", "k = Slice(c, ax, ax, ax)"),
}
CONSTANTS = """
    float[3] c = {-1.5, 2.5, 3.25}, int64[3] i = {-7, 7, -6}, int64 three = {3}, float zero = {0}, int64 nought = {0},
    int64 top = {3}, int64 one = {1}, int64[1] last = {-1}, int64[1] far = {-9223372036854775807}, int64[1] ax = {0},
    int64[2] sizes = {1, 2}
"""


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_everywhere_is_computed_here(name: str) -> None:
    kind, nodes = EXACT[name]
    body = f"g (float[2,3] x) => (float[2,3] y, {kind} out) <{CONSTANTS}> {{ {nodes} y = Neg(x) out = Identity(k) }}"
    after, report = rewritten(FoldConstants(), body, X, weights={"w": normal(2, 3)})
    assert report.applied >= 1
    assert count(after) == {"Neg": 1, "Identity": 1}


LEFT = {
    "transcendental functions": "k = Exp(c)",
    "matrix products": "k = MatMul(w, c)",
    "random numbers": "k = RandomNormalLike(c)",
    "what depends on an input": "k = Add(c, x)",
    "results of another type than declared": "k = Relu(c)",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_may_differ_between_machines_stays(name: str) -> None:
    body = (
        f"g (float[2,3] x) => (float[2,3] y, float[N] out) <{CONSTANTS}> "
        f"{{ {LEFT[name]} y = Neg(x) s = Size(k) f = Cast<to = 1>(s) r = Reshape(f, last) out = Neg(r) }}"
    )
    after, report = rewritten(FoldConstants(), body, X, weights={"w": normal(2, 3)})
    assert report.applied == 0
    assert len(after.graph.nodes) == 6


def test_a_result_that_is_an_output_stays() -> None:
    body = f"g (float[2,3] x) => (float[2,3] y, float[3] k) <{CONSTANTS}> {{ y = Neg(x) k = Neg(c) }}"
    _, report = rewritten(FoldConstants(), body, X)
    assert report.applied == 0


def test_branches_read_the_result_from_outside() -> None:
    body = (
        f"g (float[2,3] x, bool flag) => (float[2,3] y) <{CONSTANTS}> {{ k = Neg(c) "
        "y = If(flag)<then_branch = t () => (float[2,3] a) { a = Add(x, k) }, "
        "else_branch = e () => (float[2,3] s) { s = Sub(x, k) }> }"
    )
    after, _ = rewritten(FoldConstants(), body, X | {"flag": np.array(True)})
    assert count(after) == {"If": 1}


SIDE = int((LARGEST_RESULT / 4) ** 0.5) + 1  # of a square of float32 that is too large


def test_a_large_weight_is_transposed_in_its_place() -> None:
    body = f"g (float[2,{SIDE}] x) => (float[2,{SIDE}] y) {{ t = Transpose(w) y = MatMul(x, t) }}"
    data = {"x": np.ones((2, SIDE), np.float32)}
    after, _ = rewritten(FoldConstants(), body, data, weights={"w": normal(SIDE, SIDE)}, tolerance=1e-5)
    assert count(after) == {"MatMul": 1}


def test_a_large_weight_that_is_read_elsewhere_is_not_stored_twice() -> None:
    body = f"g (float[2,{SIDE}] x) => (float[2,{SIDE}] y) {{ t = Transpose(w) m = MatMul(x, t) y = MatMul(m, w) }}"
    data = {"x": np.ones((2, SIDE), np.float32)}
    after, report = rewritten(FoldConstants(), body, data, weights={"w": normal(SIDE, SIDE)}, tolerance=1e-5)
    assert (report.applied, count(after)["Transpose"]) == (0, 1)


def test_a_small_constant_does_not_become_a_large_one() -> None:
    body = (
        "g (float[2,3] x) => (float[N,M] y) <int64[2] size = {1000, 1000}, float one = {1}> "
        "{ k = Expand(one, size) n = Neg(k) y = Identity(n) }"
    )
    after, report = rewritten(FoldConstants(), body, X)
    assert report.applied == 0
    assert count(after)["Expand"] == 1
