"""MergeDuplicates: what is computed twice is computed once, what only looks the same is not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.clean_graphs import rewritten
from tests.passes.support import count, graph, normal, parse
from turbo_onnx.passes.merge_duplicates import LARGEST_COMPARED, MergeDuplicates

X = {"x": normal(2, 3, 4)}
CONSTANTS = "float one = {1}, float also_one = {1}, double wide = {1}, float[1] one1 = {1}, int64[1] axis = {1}"

MERGED = {
    "the same nodes": ("a = Neg(x) b = Neg(x)", {"Neg": 1}),
    "chains of them": ("c = Neg(x) d = Neg(x) a = Abs(c) b = Abs(d)", {"Neg": 1, "Abs": 1}),
    "constants of the same value": ("a = Add(x, one) b = Add(x, also_one)", {"Add": 1}),
    "the same attributes": ("a = Transpose<perm = [0,2,1]>(x) b = Transpose<perm = [0,2,1]>(x)", {"Transpose": 1}),
    "operands left out": ("a = Clip(x, , one) b = Clip(x, , also_one)", {"Clip": 1}),
}


@pytest.mark.parametrize("name", MERGED)
def test_what_is_computed_twice_is_computed_once(name: str) -> None:
    nodes, expected = MERGED[name]
    after, _ = rewritten(
        MergeDuplicates(), f"g (float[B,S,4] x) => (float[K,L,M] y) <{CONSTANTS}> {{ {nodes} y = Mul(a, b) }}", X
    )
    assert count(after) == expected | {"Mul": 1}


DIFFERENT = {
    "operators": "a = Neg(x) b = Abs(x)",
    "attributes": "a = Softmax<axis = 1>(x) b = Softmax<axis = 2>(x)",
    "operands": "a = Add(x, one) b = Add(x, x)",
    "the order of operands": "a = Sub(x, one) b = Sub(one, x)",
    "shapes of constants": "c = Shape(one) d = Shape(one1) e = Size(c) f = Size(d) a = Neg(e) b = Abs(f)",
    "which operand is left out": "a = Clip(x, one) b = Clip(x, , one)",
    "random numbers": "r = RandomNormalLike(x) s = RandomNormalLike(x) c = Shape(r) d = Shape(s) e = Cast<to = 1>(c) "
    "f = Cast<to = 1>(d) a = ReduceSum<keepdims = 0>(e) b = ReduceMax<keepdims = 0>(f)",
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_stays(name: str) -> None:
    nodes = DIFFERENT[name]
    output = "int64 y" if "Size" in nodes else "float y" if "Random" in nodes else "float[B,S,4] y"
    body = f"g (float[B,S,4] x) => ({output}) <{CONSTANTS}> {{ {nodes} y = Mul(a, b) }}"
    before = count(parse(graph(body)))
    after, report = rewritten(MergeDuplicates(), body, X)
    assert report.applied == 0
    assert count(after) == before


def test_results_are_matched_with_what_the_first_node_really_has() -> None:
    after, report = rewritten(
        MergeDuplicates(),
        "g (float[3,B,4] x) => (float[K,L,M,N] y, float[P,Q,R] h) "
        "{ y, , c = LSTM<hidden_size = 2>(x, w, r) z, h0 = LSTM<hidden_size = 2>(x, w, r) "
        "d, h1, e = LSTM<hidden_size = 2>(x, w, r) s = Add(h0, h1) t = Add(s, c) h = Add(t, e) }",
        {"x": normal(3, 2, 4)},
        weights={"w": normal(1, 8, 4), "r": normal(1, 8, 2)},
    )
    assert report.applied == 0
    assert count(after)["LSTM"] == 3


def test_outputs_of_the_graph_stay() -> None:
    after, report = rewritten(
        MergeDuplicates(), "g (float[B,S,4] x) => (float[B,S,4] y, float[B,S,4] z) { y = Neg(x) z = Neg(x) }", X
    )
    assert (report.applied, count(after)) == (0, {"Neg": 2})


def test_large_weights_are_not_read_to_be_compared() -> None:
    side = LARGEST_COMPARED
    text = f"g (float[B,{side}] x) => (float[B,{side}] y) {{ a = Mul(x, v) b = Mul(x, w) y = Add(a, b) }}"
    weights = {"v": normal(side), "w": normal(side)}
    after, report = rewritten(MergeDuplicates(), text, {"x": normal(2, side)}, weights=weights)
    assert (report.applied, count(after)["Mul"]) == (0, 2)


def test_branches_stay_and_read_what_is_left() -> None:
    after, _ = rewritten(
        MergeDuplicates(),
        "g (float[B,S,4] x, bool flag) => (float[B,S,4] y) { n = Neg(x) m = Neg(x) "
        "p = If(flag)<then_branch = t () => (float[B,S,4] a) { a = Neg(m) }, "
        "else_branch = e () => (float[B,S,4] b) { b = Abs(n) }> "
        "q = If(flag)<then_branch = t () => (float[B,S,4] a) { a = Abs(m) }, "
        "else_branch = e () => (float[B,S,4] b) { b = Neg(n) }> y = Add(p, q) }",
        X | {"flag": np.array(True)},
    )
    assert count(after) == {"Neg": 1, "If": 2, "Add": 1}
