"""What a bias adds where a token looks at itself: proven from positions and constants, or not known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import model, session
from turbo_onnx import shapes
from turbo_onnx.diagonal import Known, on_diagonal

LOWEST = float(np.finfo(np.float32).min)
POSITIONS = """
    sh = Shape(ids) length = Gather(sh, second) here = Range(zero_index, length, second)
    row = Unsqueeze(here, axis0) column = Unsqueeze(here, axis1) away = Sub(row, column)
"""
CASES = {
    "later tokens hidden": ("s = LessOrEqual(row, column) y = Where(s, zero, infinite)", (0.0, 0.0)),
    "itself hidden": ("s = Less(row, column) y = Where(s, zero, lowest)", (LOWEST, LOWEST)),
    "all but later tokens shown": ("s = Greater(row, column) t = Not(s) y = Where(t, zero, lowest)", (0.0, 0.0)),
    "a window": ("a = Abs(away) s = Less(a, two) y = Where(s, zero, lowest)", (0.0, 0.0)),
    "a window of earlier tokens": (
        "m = Sub(column, two) s = GreaterOrEqual(row, m) l = LessOrEqual(row, column) b = And(s, l) "
        "y = Where(b, zero, lowest)",
        (0.0, 0.0),
    ),
    "slopes": ("f = Cast<to = 1>(away) a = Abs(f) y = Mul(a, shy)", (0.0, 0.0)),
    "whole slopes": ("a = Abs(away) f = Cast<to = 1>(a) y = Mul(f, shy)", (0.0, 0.0)),
    "a table": (
        "g = Gather(small, ids) y = Transpose<perm = [2, 0, 1]>(g)",
        (-3.0, 5.0),
    ),
    "a table, repeated for each sequence": (
        "n = Gather(sh, zero_index) n1 = Unsqueeze(n, axis0) to = Concat<axis = 0>(n1, axis1, axis1, axis1) "
        "g = Gather(small, away) t = Transpose<perm = [2, 0, 1]>(g) u = Unsqueeze(t, axis0) y = Expand(u, to)",
        (-3.0, 5.0),
    ),
    "a choice that is not known": (
        "s = Less(ids, row) y = Where(s, zero, lowest)",
        (LOWEST, 0.0),
    ),
    "the truth of a number": ("g = Gather(small, away) s = Cast<to = 9>(g) y = Where(s, zero, one)", (0.0, 1.0)),
    "an input": ("y = Mul(x, one)", None),
}


def _axes(nodes: str) -> str:
    """Names for the axes of y."""
    if "small" not in nodes or "perm" not in nodes:
        return "P,Q"
    return "P,Q,R,U" if "Expand" in nodes else "P,Q,R"


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_of_the_diagonal(name: str) -> None:
    nodes, expected = CASES[name]
    constants = ", int64 second = {1}, int64 zero_index = {0}"
    small = np.array([[5, -3], [0, 1]], np.float32)
    graph = model(
        POSITIONS + nodes,
        f"float[{_axes(nodes)}] y",
        inputs="int64[B,S] ids, float[S,S] x",
        constants=constants,
        extra={"small": small},
    )
    found = on_diagonal(graph.graph.outputs[0], Known(shapes.infer(graph)))
    assert found == expected


ROWS = "w = Gather(table, ids) n = LayerNormalization<epsilon = 1e-5>(w, gamma, beta)"
BOUNDED = {
    "a normalization": "y = Identity(n)",
    "a product": "y = MatMul(n, wq)",
    "a quotient": "p = MatMul(n, wq) y = Div(p, shy)",
    "a look-up": "p = MatMul(n, wq) i = Cast<to = 7>(w) z = Mul(i, pad) y = GatherElements<axis = -1>(p, z)",
    "half of a row": "p = MatMul(n, wq) l, y = Split<axis = -1>(p)",
    "fractions cut off": "s = Sigmoid(n) p = Add(s, two_thirds) i = Cast<to = 7>(p) y = Cast<to = 1>(i)",
    "a product of rows": "t = Transpose<perm = [0, 2, 1]>(n) y = MatMul(n, t)",
}
UNBOUNDED = {
    "an exponential": "e = Exp(n) y = MatMul(e, wq)",
    "a quotient by what may be zero": "y = Div(one, n)",
    "the mean of what is normalized": "z, y = LayerNormalization(w, gamma, beta)",
    "more than a type holds": "t = Mul(n, thousand) h = Mul(t, thousand) i = Cast<to = 3>(h) y = Cast<to = 1>(i)",
    "a sum of any number of products": "t = Transpose<perm = [0, 2, 1]>(n) y = MatMul(t, n)",
}


@pytest.mark.parametrize("name", [*BOUNDED, *UNBOUNDED])
def test_computed_numbers_stay_within_what_is_known_of_them(name: str) -> None:
    nodes = (BOUNDED | UNBOUNDED)[name]
    graph = model(ROWS + nodes, "float[P,Q,R] y", constants=", float two_thirds = {1.6666}")
    found = on_diagonal(graph.graph.outputs[0], Known(shapes.infer(graph)))
    if name in UNBOUNDED:
        assert found is None
        return
    assert found is not None
    assert np.isfinite(found).all()
    ids = np.arange(28).reshape(2, 14)
    (y,) = session(graph.to_proto()).run(None, {"ids": ids, "mask": np.ones_like(ids)})
    assert found[0] <= y.min()
    assert y.max() <= found[1]
