"""GatherBeforeTransposing: lists of elements are picked where they lie, and two Transposes around that become one."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import apply, count, equivalent, graph, normal, parse, run
from turbo_onnx.model import Model
from turbo_onnx.passes.gather_before_transposing import GatherBeforeTransposing

CONSTANTS = "int64[2,1] pair = {3, -1}, int64[1,1] one = {-2}, int64[2] list = {0, 2}, int64 item = {1}"
FRONT = "t = Transpose<perm = [2,0,1,3]>(x)"


def model(nodes: str, outputs: str = "float[P,Q,R,T] y") -> Model:
    return cleaned(parse(graph(f"g (float[B,S,4,5] x) => ({outputs}) <{CONSTANTS}> {{ {nodes} }}")))


PICKED = {
    "one brought back": (f"{FRONT} g = GatherND(t, one) y = Transpose<perm = [1,2,0,3]>(g)", 1, 0),
    "one brought elsewhere": (f"{FRONT} g = GatherND(t, one) y = Transpose<perm = [1,0,2,3]>(g)", 1, 1),
    "a list left in front": (f"{FRONT} y = GatherND(t, pair)", 1, 1),
    "along another axis": (f"{FRONT} g = Gather<axis = -1>(t, list) y = Transpose<perm = [1,2,0,3]>(g)", 1, 0),
    "two lists": (
        f"{FRONT} g = GatherND(t, one) a = Transpose<perm = [1,2,0,3]>(g) h = Gather(t, list) "
        "b = Transpose<perm = [1,2,0,3]>(h) y = Concat<axis = 2>(a, b)",
        2,
        0,
    ),
    "read in two orders": (
        f"{FRONT} g = GatherND(t, one) a = Transpose<perm = [1,2,0,3]>(g) y = Exp(g) z = Neg(a)",
        1,
        1,
    ),
    "axes turned around": ("t = Transpose(x) y = Gather<axis = 1>(t, list)", 1, 1),
}


@pytest.mark.parametrize("name", PICKED)
def test_what_is_picked_is_picked_first(name: str) -> None:
    nodes, applied, left = PICKED[name]
    outputs = "float[P,Q,R,T] y" + (", float[U,V,W,X] z" if " z = " in nodes else "")
    before, after = model(nodes, outputs), model(nodes, outputs)
    assert apply(GatherBeforeTransposing(), after).applied == applied
    assert (count(after)["Transpose"], count(after)["GatherND"]) == (left, 0)
    data = {"x": normal(2, 3, 4, 5)}
    equivalent(run(before, data), after, data)


KEPT = {
    "a single element": (f"{FRONT} y = Gather(t, item)", "float[B,S,5] y"),
    "a Transpose that is read elsewhere": (
        f"{FRONT} y = GatherND(t, one) z = Exp(t)",
        "float[P,Q,R,T] y, float[4,B,S,5] z",
    ),
    "a Transpose that is an output": (f"{FRONT} y = GatherND(t, one)", "float[P,Q,R,T] y, float[4,B,S,5] t"),
    "nothing transposed": ("y = Gather<axis = 2>(x, list)", "float[P,Q,R,T] y"),
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    assert apply(GatherBeforeTransposing(), model(*KEPT[name])).applied == 0
