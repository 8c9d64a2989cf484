"""Which nodes treat every token by itself, and what their operands are to them."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import graph, normal, parse
from turbo_onnx import shapes
from turbo_onnx.graph import RAISED_DOMAIN
from turbo_onnx.layout import Role, TokenLayout, Tokenwise

CONSTANTS = """
    int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] last = {-1},
    int64[2] halves = {2, 2}, int64[2] flat = {-1, 4}, int64[4] heads = {0, 0, 2, 2}, int64[3] exchanged = {0, 4, -1},
    int64[2] ends = {1, 3}, float half = {0.5}, float[4] vector = {1, 2, 3, 4}, float[1,1,4] row = {1, 2, 3, 4},
    float[1,4] bias = {1, 2, 3, 4}
"""
INPUTS = """
    float[B,S,4] x, float[B,S,4] other, int64[B,S] ids, float[1,S,4] at, float[S,4] places, float[B,1,4] each,
    float[S,B,4] across, float[N,4] rows, int64[1] part
"""
TOKEN, POSITION, SEQUENCE, CONSTANT, ABSENT = Role.TOKEN, Role.POSITION, Role.SEQUENCE, Role.CONSTANT, Role.ABSENT


def rule(nodes: str, opset: int = 17, raised: str = "") -> Tokenwise | None:
    """How the node that computes `y`, which is the raised operator of that name if given, is written on packed rows."""
    body = f"g ({INPUTS}) => () <{CONSTANTS}> {{ f = Reshape(x, flat) e = Exp(x) {nodes} }}"
    proto = parse_untyped(body, opset)
    shapes.infer(proto)
    node = next(node for node in proto.graph.nodes if any(tensor.name == "y" for tensor in node.outputs))
    assert isinstance(node, gs.Node)
    if raised:
        node.op, node.domain = raised, RAISED_DOMAIN
    return TokenLayout("B", "S", opset).tokenwise(node)


def parse_untyped(body: str, opset: int):  # type: ignore[no-untyped-def]
    weights = {"table": normal(9, 4), "weight": normal(4, 4), "stack": normal(2, 4, 4)}
    return parse(
        graph(body.replace("=> ()", "=> (float z)").replace(" }", " z = ReduceSum<keepdims = 0>(x) }"), opset=opset),
        weights,
    )


TOKENWISE = {
    "an operator on each element": ("y = Exp(x)", (TOKEN,)),
    "two tensors of tokens": ("y = Add(x, other)", (TOKEN, TOKEN)),
    "a number": ("y = Mul(half, x)", (CONSTANT, TOKEN)),
    "a row of features": ("y = Add(x, vector)", (TOKEN, CONSTANT)),
    "a row of features on three axes": ("y = Add(row, x)", (CONSTANT, TOKEN)),
    "positions": ("y = Add(x, at)", (TOKEN, POSITION)),
    "positions on two axes": ("y = Add(places, x)", (POSITION, TOKEN)),
    "sequences": ("y = Mul(x, each)", (TOKEN, SEQUENCE)),
    "a choice": ("c = Greater(x, half) y = Where(c, x, at)", (TOKEN, TOKEN, POSITION)),
    "an operand left out": ("y = Clip(x, , half)", (TOKEN, ABSENT, CONSTANT)),
    "a lookup": ("y = Gather(table, ids)", (CONSTANT, TOKEN)),
    "a linear layer": ("y = MatMul(x, weight)", (TOKEN, CONSTANT)),
    "a linear layer on flat rows": ("y = Gemm<transB = 1>(f, weight, vector)", (TOKEN, CONSTANT, CONSTANT)),
    "softmax of features": ("y = Softmax(x)", (TOKEN,)),
    "softmax of features from the first axis": ("y = Softmax<axis = 2>(x)", (TOKEN,)),
    "normalization": ("y = LayerNormalization(x, vector, vector)", (TOKEN, CONSTANT, CONSTANT)),
    "a mean of features": ("y = ReduceMean<axes = [-1]>(x)", (TOKEN,)),
    "a sum of features": ("y = ReduceSum<keepdims = 0>(x, two)", (TOKEN, CONSTANT)),
    "the largest feature": ("y = ArgMax<axis = 2>(x)", (TOKEN,)),
    "heads": ("y = Reshape(x, heads)", (TOKEN, CONSTANT)),
    "flat rows": ("y = Reshape(x, flat)", (TOKEN, CONSTANT)),
    "flattened rows": ("y = Flatten<axis = 2>(x)", (TOKEN,)),
    "an axis more": ("y = Unsqueeze(x, last)", (TOKEN, CONSTANT)),
    "features exchanged": ("h = Reshape(x, heads) y = Transpose<perm = [0,1,3,2]>(h)", (TOKEN,)),
    "parts of features": ("y, r = Split<axis = -1>(x, halves)", (TOKEN, CONSTANT)),
    "features joined": ("y = Concat<axis = 2>(x, other)", (TOKEN, TOKEN)),
    "a lookup of features": ("y = Gather<axis = 2>(x, ends)", (TOKEN, CONSTANT)),
    "a lookup of heads": ("h = Reshape(x, heads) y = Gather<axis = -2>(h, last)", (TOKEN, CONSTANT)),
    "some features": ("y = Slice(x, one, last, two)", (TOKEN, CONSTANT, CONSTANT, CONSTANT)),
}


@pytest.mark.parametrize("name", TOKENWISE)
def test_what_treats_every_token_by_itself(name: str) -> None:
    nodes, roles = TOKENWISE[name]
    found = rule(nodes)
    assert found is not None
    assert found.roles == roles


def test_a_raised_normalization_is_what_the_standard_one_is() -> None:
    found = rule("y = LayerNormalization(x, vector)", raised="RMSNormalization")
    assert found is not None
    assert (found.roles, found.attrs["axis"]) == ((TOKEN, CONSTANT), -1)
    assert rule("y = LayerNormalization(x, vector)", raised="Attention") is None


MIXING = {
    "softmax of positions": "y = Softmax<axis = 1>(x)",
    "normalization of positions": "y = LayerNormalization<axis = 1>(x, places)",
    "a mean of positions": "y = ReduceMean<axes = [1]>(x)",
    "a mean of everything": "y = ReduceMean(x)",
    "the position of the largest": "y = ArgMax<axis = 1>(x)",
    "products of tokens": "t = Transpose<perm = [0,2,1]>(x) y = MatMul(x, t)",
    "a stack of weights": "t = Reshape(x, heads) y = MatMul(t, t)",
    "a linear layer on columns": "y = Gemm<transA = 1>(f, f)",
    "a linear layer with a bias for each row": "y = Gemm(f, weight, f)",
    "positions exchanged with features": "y = Transpose<perm = [0,2,1]>(x)",
    "positions exchanged with sequences": "y = Transpose<perm = [1,0,2]>(x)",
    "features cut otherwise": "y = Reshape(x, exchanged)",
    "positions joined": "y = Concat<axis = 1>(x, other)",
    "some positions": "y = Slice(x, one, last, one)",
    "features chosen at run time": "y = Slice(x, part, last, two)",
    "a sum along the positions": "k = Squeeze(one) y = CumSum(x, k)",
    "a lookup of positions": "y = Gather<axis = 1>(x, ends)",
    "a lookup of features that are computed": "y = Gather<axis = 2>(x, part)",
    "a lookup of sequences": "y = Gather<axis = 0>(x, ends)",
    "a lookup in what is computed": "t = Exp(table) y = Gather(t, ids)",
    "sequences along the other axis": "y = Add(across, across)",
    "an axis before": "y = Unsqueeze(x, zero)",
    "an operator of another domain": "y = com.example.Exp(x)",
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_tokens(name: str) -> None:
    if name == "an operator of another domain":
        node = gs.Node("Exp", domain="com.example", inputs=[variable("x")], outputs=[variable("y")])
        assert TokenLayout("B", "S", 17).tokenwise(node) is None
        return
    assert rule(MIXING[name]) is None


def variable(name: str, shape: tuple[int | str, ...] = ("B", "S", 4)) -> gs.Variable:
    return gs.Variable(name, "float32", list(shape))


def test_older_softmax_is_over_all_axes_from_its_own() -> None:
    assert rule("y = Softmax<axis = 2>(x)", opset=12) is None


@pytest.mark.parametrize(
    ("shape", "lead", "row"),
    [
        (("B", "S", 8), 2, (8,)),
        (("B", "S"), 2, ()),
        (("B*S", 8), 1, (8,)),
        (("B", "S", "S"), 2, None),
        (("S", "B", 8), 0, None),
        (("B", 8), 0, None),
        (("B", 1, 8), 0, None),
        ((), 0, ()),
    ],
)
def test_leading_axes_tell_where_tokens_are(
    shape: tuple[int | str, ...], lead: int, row: tuple[int, ...] | None
) -> None:
    layout, tensor = TokenLayout("B", "S", 17), variable("t", shape)
    assert layout.lead(tensor) == lead
    assert layout.row(tensor) == row


def test_what_has_no_known_shape_has_no_tokens() -> None:
    layout, tensor = TokenLayout("B", "S", 17), gs.Variable("t")
    assert (layout.lead(tensor), layout.row(tensor)) == (0, None)
    assert layout.tokenwise(gs.Node("Exp", inputs=[tensor], outputs=[tensor])) is None


def test_on_packed_rows_there_is_one_leading_axis() -> None:
    permuted = rule("h = Reshape(x, heads) y = Transpose<perm = [0,1,3,2]>(h)")
    assert permuted is not None
    assert permuted.attrs == {"perm": [0, 2, 1]}
    summed = rule("y = ReduceSum<keepdims = 0>(x, last)")
    assert summed is not None
    assert summed.operands == {1: [1]}
    reshaped = rule("y = Reshape(x, heads)")
    assert reshaped is not None
    assert reshaped.rearranged == (2, 2)
