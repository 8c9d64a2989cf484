"""RemoveArangeGathers: indexing that walks through the data in order is a view, any other indexing stays."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes import support
from tests.passes.clean_graphs import rewritten
from tests.passes.support import count, sentences
from turbo_onnx.graph import integers
from turbo_onnx.passes.remove_arange_gathers import RemoveArangeGathers

MASK = {"mask": np.arange(6).reshape(2, 3) % 2 == 0}
CONSTANTS = """
    int64 first = {0}, int64 step = {1}, int64 two = {2}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {-1},
    int64[3] beside = {0, 1, 2}, int64[3] above = {1, 2, 3}, int64[1] flat = {-1}
"""
SIZES = """
    s = Shape(mask) b = Gather(s, first) l = Gather(s, step) b1 = Gather(s, zero) l1 = Gather(s, one)
    sequences = Range(first, b, step) positions = Range(first, l, step)
    rows = Unsqueeze(sequences, above) columns = Unsqueeze(positions, beside)
"""
GRID = "full = Concat<axis = 0>(b1, one, one, l1)"
FLAT = "m = Flatten<axis = 0>(mask) all = Reshape(m, flat) base = Mul(rows, l) index = Add(base, columns)"
STACKED = f"""
    {GRID} r4 = Expand(rows, full) c4 = Expand(columns, full) r5 = Unsqueeze(r4, last) c5 = Unsqueeze(c4, last)
    index = Concat<axis = -1>(r5, c5)
"""


def run(nodes: str, output: str = "bool[B,1,1,S] y"):  # type: ignore[no-untyped-def]
    body = f"g (bool[B,S] mask) => ({output}) <{CONSTANTS}> {{ {SIZES} {nodes} }}"
    return rewritten(RemoveArangeGathers(), body, MASK)


VIEWS = {
    "GatherND by stacked aranges": (
        f"{STACKED} g = GatherND(mask, index) y = Not(g)",
        "bool[B,1,1,S] y",
        [1, 2],
    ),
    "Gather from the flattened mask": (
        f"{FLAT} g = Gather(all, index) y = Not(g)",
        "bool[B,1,1,S] y",
        [1, 2],
    ),
    "Gather of every position": ("g = Gather<axis = 1>(mask, positions) y = Not(g)", "bool[B,S] y", []),
    "Gather of every position on more axes": (
        "g = Gather<axis = -1>(mask, columns) y = Not(g)",
        "bool[B,1,1,1,S] y",
        [1, 2, 3],
    ),
    "Gather of every sequence": ("g = Gather(mask, sequences) y = Not(g)", "bool[B,S] y", []),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_gather_that_takes_every_element_in_order_is_a_view(name: str) -> None:
    nodes, output, new = VIEWS[name]
    after, report = run(nodes, output)
    assert report.applied == 1
    assert not {"Gather", "GatherND"} & {
        node.op for node in after.graph.nodes if node.inputs[0].name in ("mask", "all")
    }
    (view,) = (node for node in after.graph.nodes if node.op == ("Unsqueeze" if new else "Reshape"))
    assert view.inputs[0].name == "mask"
    assert integers(view.inputs[1]) == (new or [0, 0])
    (y,) = support.run(after, {"mask": np.zeros((0, 3), bool)})
    assert y.shape == (0, *[1] * len(new), 3)


OTHER_ORDERS = {
    "backwards": (
        "back = Sub(l, positions) index = Sub(back, step) g = Gather<axis = 1>(mask, index) y = Not(g)",
        "bool[B,S] y",
    ),
    "from the second on": (
        "fewer = Sub(l, step) part = Range(step, l, step) g = Gather<axis = 1>(mask, part) y = Not(g)",
        "bool[B,R] y",
    ),
    "every second": ("part = Range(first, l, two) g = Gather<axis = 1>(mask, part) y = Not(g)", "bool[B,R] y"),
    "one over and over": (
        "same = Mul(positions, first) g = Gather<axis = 1>(mask, same) y = Not(g)",
        "bool[B,S] y",
    ),
    "too few": ("part = Range(first, two, step) g = Gather<axis = 1>(mask, part) y = Not(g)", "bool[B,2] y"),
}


@pytest.mark.parametrize("name", OTHER_ORDERS)
def test_a_gather_in_another_order_stays(name: str) -> None:
    nodes, output = OTHER_ORDERS[name]
    after, report = run(nodes, output)
    assert report.applied == 0
    assert any(node.op == "Gather" and node.inputs[0].name == "mask" for node in after.graph.nodes)


STACKS_KEPT = {
    "axes exchanged": (
        f"{STACKED.replace('r5, c5', 'c5, r5')} square = Gather(mask, zero) t = Transpose<perm = [1,0]>(mask) "
        "g = GatherND(t, index) y = Not(g)",
        "bool[B,1,1,S] y",
    ),
    "repeated along another axis": (
        "full = Concat<axis = 0>(b1, l1, one, l1) r4 = Expand(rows, full) c4 = Expand(columns, full) "
        "r5 = Unsqueeze(r4, last) c5 = Unsqueeze(c4, last) index = Concat<axis = -1>(r5, c5) "
        "g = GatherND(mask, index) y = Not(g)",
        "bool[B,S,1,S] y",
    ),
    "moved by one": (
        f"{GRID} r4 = Expand(rows, full) back = Sub(columns, step) c4 = Expand(back, full) r5 = Unsqueeze(r4, last) "
        "c5 = Unsqueeze(c4, last) index = Concat<axis = -1>(r5, c5) g = GatherND(mask, index) y = Not(g)",
        "bool[B,1,1,S] y",
    ),
}


@pytest.mark.parametrize("name", STACKS_KEPT)
def test_a_gather_by_other_stacks_stays_and_says_so(name: str) -> None:
    nodes, output = STACKS_KEPT[name]
    after, report = run(nodes, output)
    assert (report.applied, count(after)["GatherND"]) == (0, 1)
    assert sentences(report) == ["its indices are aranges, but do not walk through every axis of the data in order"]


def test_indices_from_outside_stay() -> None:
    body = "g (bool[B,S] mask, int64[S] index) => (bool[B,S] y) { y = Gather<axis = 1>(mask, index) }"
    after, report = rewritten(RemoveArangeGathers(), body, MASK | {"index": np.array([2, 0, 1])})
    assert (report.applied, count(after)) == (0, {"Gather": 1})


@pytest.mark.parametrize("name", ["GatherND by stacked aranges", "Gather from the flattened mask"])
def test_a_batch_of_one_is_walked_through_too(name: str) -> None:
    nodes, _, _ = VIEWS[name]
    body = f"g (bool[1,S] mask) => (bool[1,1,1,S] y) <{CONSTANTS}> {{ {SIZES} {nodes} }}"
    after, report = rewritten(RemoveArangeGathers(), body, {"mask": MASK["mask"][:1]})
    assert report.applied == 1
    assert not {"Gather", "GatherND"} & {
        node.op for node in after.graph.nodes if node.inputs[0].name in ("mask", "all")
    }
