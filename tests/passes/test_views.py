"""Views: what reshapes, transposes and picks make of a tensor's axes is the same in every spelling, and proven."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import graph, parse
from turbo_onnx.passes.views import Ancestor, Piece, ancestors, positions, regrouped

NUMBERS = (
    "int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}, int64 one = {1}, int64[2] same = {1, 1}, "
    "int64[1] start = {4}, int64[1] end = {8}, int64[1] two1 = {2}, int64[2] halves = {4, 4}, int64[1] odd = {3}"
)


def farthest(nodes: str, output: str = "float[B,S,8] y") -> Ancestor:
    """What the output is of the input x [B, S, 8]: the farthest tensor that it is a view of."""
    model = cleaned(parse(graph(f"g (float[B,S,8] x) => ({output}) <{NUMBERS}> {{ {nodes} }}")))
    return list(ancestors(model.graph.outputs[0], model.opset))[-1]


def test_split_and_transpose_cut_and_reorder() -> None:
    found = farthest("r = Reshape(x, split) y = Transpose<perm = [0,2,1,3]>(r)", "float[B,2,S,4] y")
    assert found.tensor.name == "x"
    batch, heads, rows, features = found.view.axes
    assert [len(axis) for axis in found.view.axes] == [1, 1, 1, 1]
    assert (batch[0].axis, rows[0].axis) == (0, 1)
    assert heads == (Piece(2, 2, 4),)
    assert features == (Piece(2, 4, 1),)


def test_a_round_trip_is_the_tensor_itself() -> None:
    found = farthest(
        "r = Reshape(x, split) t = Transpose<perm = [0,2,1,3]>(r) u = Transpose<perm = [0,2,1,3]>(t) "
        "y = Reshape(u, merge)"
    )
    columns = positions(found.view.axes[2])
    assert columns is not None
    assert columns.tolist() == list(range(8))


PICKS = {
    "slice": ("y = Slice(x, start, end, two1)", "float[B,S,4] y"),
    "split": ("y0, y = Split<axis = -1>(x, halves) z = Relu(y0)", "float[B,S,4] y, float[B,S,4] z"),
    "gather": ("r = Reshape(x, split) y = Gather<axis = 2>(r, one)", "float[B,S,4] y"),
}


@pytest.mark.parametrize("name", PICKS)
def test_three_ways_to_pick_the_second_half(name: str) -> None:
    found = farthest(*PICKS[name])
    assert found.tensor.name == "x"
    columns = positions(found.view.axes[2])
    assert columns is not None
    assert (columns + found.view.offset(2)).tolist() == [4, 5, 6, 7]


def test_factors_are_multiplied() -> None:
    nodes = "a = Mul(x, half) y = Div(a, four)"
    text = graph(f"g (float[B,S,8] x) => (float[B,S,8] y) <float half = {{0.5}}, float four = {{4.0}}> {{ {nodes} }}")
    model = cleaned(parse(text))
    assert list(ancestors(model.graph.outputs[0], 17))[-1].view.factor == 0.125


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ("r = Reshape(x, split) y = Gather<axis = 2>(r, same)", "float[B,S,2,4] y"),
        ("y = Slice(x, odd, end, two1)", "float[B,S,5] y"),
        ("y = Relu(x)", "float[B,S,8] y"),
    ],
    ids=["one index twice", "a part that is no regular cut", "another operator"],
)
def test_what_is_no_view_ends_the_chain(nodes: str, output: str) -> None:
    assert farthest(nodes, output).tensor.name != "x"


def test_cuts_that_cannot_be_proven_are_none() -> None:
    pieces = [Piece(0, 6, 1), Piece(1, 4, 1)]
    assert regrouped(pieces, [8, "N", 1, "M"]) is None
    assert regrouped(pieces, [24]) == ((Piece(0, 6, 1), Piece(1, 4, 1)),)
    assert regrouped(pieces, [2, 12]) == ((Piece(0, 2, 3),), (Piece(0, 3, 1), Piece(1, 4, 1)))
    assert regrouped(pieces, [4, 6]) is None


def test_positions_follow_the_strides() -> None:
    columns = positions((Piece(2, 2, 4), Piece(2, 2, 1)))
    np.testing.assert_array_equal(columns, [0, 1, 4, 5])
