"""RemoveNoOps: nodes that give back what they are given go, those that only look so stay."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.clean_graphs import rewritten
from tests.passes.support import count
from turbo_onnx.graph import integers
from turbo_onnx.passes.remove_no_ops import RemoveNoOps

X = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
CONSTANTS = """
    int64[3] same = {0, 0, 4}, int64[3] ones = {1, 1, 1}, int64[3] twice = {1, 2, 1}, int64[1] first = {0},
    int64[2] flat = {-1, 4}, int64[4] heads = {0, 0, 2, 2}, bool training = {0},
    float unit = {1}, float[1,1,1,1] unit4 = {1}, float[2] two_units = {1, 1}, float half = {0.5}
"""

GONE = {
    "Identity": "n = Identity(x)",
    "Cast to its own type": "n = Cast<to = 1>(x)",
    "Concat of one": "n = Concat<axis = 1>(x)",
    "Dropout": "n = Dropout(x)",
    "Dropout with its mask unread": "n, m = Dropout(x, half)",
    "Dropout that says it does not train": "n = Dropout(x, half, training)",
    "Transpose that keeps the order": "n = Transpose<perm = [0,1,2]>(x)",
    "Reshape to the same shape": "n = Reshape(x, same)",
    "Expand to the same shape": "s = Shape(x) n = Expand(x, s)",
    "Tile once": "n = Tile(x, ones)",
    "Mul by 1": "n = Mul(x, unit)",
    "1 times": "n = Mul(unit, x)",
    "Div by 1": "n = Div(x, unit)",
    "several in a row": "a = Identity(x) b = Cast<to = 1>(a) c = Dropout(b) n = Mul(c, unit)",
}


@pytest.mark.parametrize("name", GONE)
def test_what_changes_nothing_goes(name: str) -> None:
    after, report = rewritten(
        RemoveNoOps(), f"g (float[B,S,4] x) => (float[B,S,4] y) <{CONSTANTS}> {{ {GONE[name]} y = Neg(n) }}", X
    )
    assert count(after) == {"Neg": 1}
    assert report.applied >= 1


KEPT = {
    "Cast to another type": ("n = Cast<to = 11>(x)", "double[B,S,4] y", "Cast"),
    "Dropout whose mask is an output": ("n, m = Dropout(x)", "float[B,S,4] y, bool[B,S,4] m", "Dropout"),
    "Dropout whose mask is read": ("n, m = Dropout(x) o = Not(m)", "float[B,S,4] y, bool[B,S,4] o", "Dropout"),
    "Transpose of equal sizes": ("q = MatMul(x, x2) n = Transpose<perm = [0,2,1]>(q)", "float[B,S,S] y", "Transpose"),
    "Reshape to another shape": ("n = Reshape(x, flat)", "float[N,4] y", "Reshape"),
    "Tile along an axis": ("n = Tile(x, twice)", "float[B,T,4] y", "Tile"),
    "Mul that adds an axis": ("n = Mul(x, unit4)", "float[1,B,S,4] y", "Mul"),
    "Div of 1": ("n = Div(unit, x1)", "float[B,S,4] y", "Div"),
    "Mul by a half": ("n = Mul(x, half)", "float[B,S,4] y", "Mul"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_only_looks_so_stays(name: str) -> None:
    nodes, outputs, op = KEPT[name]
    before = "x1 = Exp(x) x2 = Transpose<perm = [0,2,1]>(x)"
    after, report = rewritten(
        RemoveNoOps(), f"g (float[B,S,4] x) => ({outputs}) <{CONSTANTS}> {{ {before} {nodes} y = Neg(n) }}", X
    )
    assert count(after)[op] >= 1
    assert report.applied == 0


OUTPUTS = {
    "an input passed through": ("y = Identity(x)", "float[B,S,4] y", {"Identity": 1}),
    "a constant passed through": ("y = Identity(two_units)", "float[2] y", {"Identity": 1}),
    "two names for one": (
        "a = Neg(x) y = Identity(a) z = Identity(a)",
        "float[B,S,4] y, float[B,S,4] z",
        {"Neg": 1, "Identity": 1},
    ),
    "an output and its copy": (
        "a = Neg(x) y = Identity(a)",
        "float[B,S,4] a, float[B,S,4] y",
        {"Neg": 1, "Identity": 1},
    ),
    "a copy of what is computed": ("a = Neg(x) y = Identity(a)", "float[B,S,4] y", {"Neg": 1}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_keeps_its_name(name: str) -> None:
    nodes, outputs, expected = OUTPUTS[name]
    after, _ = rewritten(RemoveNoOps(), f"g (float[B,S,4] x) => ({outputs}) <{CONSTANTS}> {{ {nodes} }}", X)
    assert count(after) == expected
    assert [tensor.name for tensor in after.graph.outputs] == [part.split()[-1] for part in outputs.split(", ")]


MERGED = {
    "two Reshapes": ("r = Reshape(x, flat) n = Reshape(r, where)", ", int64[2] where = {-1, 2}", [-1, 2]),
    "Flatten and Reshape": ("r = Flatten<axis = 2>(x) n = Reshape(r, where)", ", int64[2] where = {-1, 2}", [-1, 2]),
    "Unsqueeze and Reshape": ("r = Unsqueeze(x, first) n = Reshape(r, where)", ", int64[2] where = {-1, 2}", [-1, 2]),
    "three Reshapes": (
        "r = Reshape(x, flat) t = Reshape(r, four) n = Reshape(t, where)",
        ", int64[2] where = {-1, 2}, int64[2] four = {4, -1}",
        [-1, 2],
    ),
}


@pytest.mark.parametrize("name", MERGED)
def test_reshapes_in_a_row_become_one(name: str) -> None:
    nodes, constants, target = MERGED[name]
    after, _ = rewritten(
        RemoveNoOps(), f"g (float[B,S,4] x) => (float[N,2] y) <{CONSTANTS}{constants}> {{ {nodes} y = Neg(n) }}", X
    )
    assert count(after) == {"Reshape": 1, "Neg": 1}
    assert integers(after.graph.nodes[0].inputs[1]) == target


def test_a_reshape_that_is_read_elsewhere_stays_for_its_reader() -> None:
    after, _ = rewritten(
        RemoveNoOps(),
        f"g (float[B,S,4] x) => (float[N,4] z, float[B,S,2,2] y) <{CONSTANTS}> "
        "{ s = Shape(x) r = Reshape(x, flat) z = Neg(r) b = Reshape(r, s) h = Reshape(b, heads) y = Neg(h) }",
        X,
    )
    assert count(after) == {"Reshape": 2, "Neg": 2}


def test_branches_read_what_is_left() -> None:
    after, _ = rewritten(
        RemoveNoOps(),
        "g (float[B,S,4] x, bool flag) => (float[B,S,4] y) { n = Neg(x) c = Identity(n) "
        "y = If(flag)<then_branch = t () => (float[B,S,4] a) { a = Neg(c) }, "
        "else_branch = e () => (float[B,S,4] b) { b = Abs(c) }> }",
        X | {"flag": np.array(False)},
    )
    assert count(after) == {"Neg": 1, "If": 1}
