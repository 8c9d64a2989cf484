"""Along which axes tensors hold tokens: proven operator by operator, or not known."""

from __future__ import annotations

import onnx.parser
import pytest

from tests.passes.support import graph
from turbo_onnx import shapes
from turbo_onnx.dims import as_dim
from turbo_onnx.model import Model
from turbo_onnx.token_axes import Axes, token_axes

HEADS, ROWS = "float[B,2,S,4] x", "float[B,S,2,4] x"
JOINED = "float[N,S,4] x"
SCORES = "float[B,2,S,S] x"
CASES: dict[str, tuple[str, str, dict[int, set[int]], set[int] | None]] = {
    "heads in front": (ROWS, "y = Transpose<perm = [0, 2, 1, 3]>(x)", {0: {-3}}, {-2}),
    "sequences are moved": (ROWS, "y = Transpose<perm = [1, 0, 2, 3]>(x)", {0: {-3}}, None),
    "as many heads as sequences, moved": (
        "float[2,2,S,4] x",
        "y = Transpose<perm = [1, 0, 2, 3]>(x)",
        {0: {-2}},
        None,
    ),
    "heads joined to sequences": (
        HEADS,
        "s = Shape<start = 2, end = 3>(x) t = Concat<axis = 0>(last, s, four) y = Reshape(x, t)",
        {0: {-2}},
        {-2},
    ),
    "tokens joined to heads": (HEADS, "y = Flatten<axis = 3>(x)", {0: {-2}}, None),
    "an axis in front": (HEADS, "y = Unsqueeze(x, zero)", {0: {-2}}, {-2}),
    "an axis behind": (HEADS, "y = Unsqueeze(x, last)", {0: {-2}}, {-3}),
    "a table": (HEADS, "y = MatMul(x, table)", {0: {-2}}, {-2}),
    "of queries and keys": (
        HEADS,
        "k = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, k)",
        {0: {-2}, 1: {-1}},
        {-2, -1},
    ),
    "a sum over tokens": (SCORES, "y = MatMul(x, x)", {0: {-2, -1}}, None),
    "a sum over a product's tokens": (SCORES, "y = MatMul(x, x)", {1: {-2}}, None),
    "look-up": (HEADS, "y = GatherElements<axis = -1>(x, where)", {0: {-2}}, {-2}),
    "look-up by tokens": (HEADS, "i = Cast<to = 7>(x) y = GatherElements<axis = -1>(five, i)", {1: {-2}}, None),
    "quotients": (SCORES, "y = Div(x, one)", {0: {-1}}, {-1}),
    "divisors": (SCORES, "y = Div(one, x)", {1: {-1}}, None),
    "what zero has none of": (SCORES, "y = Log(x)", {0: {-1}}, None),
    "look-up of tokens": (HEADS, "y = GatherElements<axis = 2>(x, where)", {0: {-2}}, None),
    "look-up of sequences": (HEADS, "y = GatherElements<axis = 0>(x, where)", {0: {-2}}, None),
    "a look-up that leaves tokens out": (HEADS, "y = GatherElements<axis = 3>(x, short)", {0: {-2}}, None),
    "a sum": (SCORES, "y = Add(x, one)", {0: {-2}}, {-2}),
    "a sum of both": (SCORES, "t = Neg(x) y = Add(x, t)", {0: {-2}, 1: {-1}}, {-2, -1}),
    "a sum that repeats sequences": ("float[1,2,S,S] x", "y = Add(x, full)", {0: {-2}}, None),
    "a choice": (SCORES, "c = Cast<to = 9>(one) y = Where(c, x, one)", {1: {-1}}, {-1}),
    "over tokens": (SCORES, "y = Softmax(x)", {0: {-1}}, None),
    "a running sum": (SCORES, "y = CumSum(x, axis)", {0: {-1}}, None),
    "a mean": (SCORES, "y = ReduceMean<axes = [3]>(x)", {0: {-1}}, None),
    "repeated tokens": (HEADS, "y = Tile(x, twice)", {0: {-2}}, None),
    "repeated sequences": (HEADS, "y = Tile(x, again)", {0: {-2}}, None),
    "repeated columns": (HEADS, "y = Tile(x, columns)", {0: {-2}}, {-2}),
    "sequences in another place": (HEADS, "y = Reshape(x, mixed)", {0: {-2}}, None),
    "sequences split off": (JOINED, "y = Reshape(x, split)", {0: {-2}}, None),
}
CONSTANTS = (
    "int64[1] zero = {0}, int64[1] last = {-1}, int64[1] four = {4}, float one = {1}, int64 axis = {3},"
    "int64[4] twice = {1, 1, 2, 1}, int64[4] columns = {1, 1, 1, 2}, int64[4] mixed = {2, -1, 0, 4},"
    "int64[4] again = {2, 1, 1, 1},"
    "int64[4] split = {-1, 3, 0, 4}"
)
INPUTS = "float[4,6] table, int64[B,2,S,5] where, int64[B,2,R,5] short, float[B,2,S,S] full, float[B,2,S,5] five"


@pytest.mark.parametrize("name", CASES)
def test_the_token_axes_of_a_result(name: str) -> None:
    inputs, nodes, operands, expected = CASES[name]
    proto = onnx.parser.parse_model(graph(f"g ({inputs}, {INPUTS}) => (float[A] y) <{CONSTANTS}> {{ {nodes} }}"))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = Model.from_proto(proto)
    shapes.infer(model)
    node = model.graph.nodes[-1]
    found = token_axes(node, {index: Axes(axes) for index, axes in operands.items()}, as_dim("B"))
    assert found == (None if expected is None else Axes(expected))
