"""Sizes that the file gives different names may differ: where one is 1 it is broadcast."""

from __future__ import annotations

import pytest

from tests.passes.support import equivalent, graph, normal, parse
from turbo_onnx import pipeline, shapes
from turbo_onnx.model import Model

CASES = {
    "an Expand to a batch": ("s = Shape(x) e = Expand(w, s) y = Tanh(e)", "float[P,S,8] w"),
    "a sum, and an Expand of one side of it": ("a = Add(x, w) s = Shape(x) e = Expand(w, s) y = Concat<axis = 2>(a, e)",
                                               "float[P,S,8] w"),
    "an Expand that another input seems to do": ("s = Shape(x) e = Expand(one, s) y = Add(e, w)", "float[P,S,8] w"),
}  # fmt: skip


def _runs(text: str, batch: int) -> None:
    model = parse(text)
    before = model.to_proto()
    feed = {"x": normal(3, 5, 8), "w": normal(batch, 5, 8, seed=1)}
    pipeline.run(model, pipeline.STAGES["clean"], checks=True)
    equivalent(before, model, feed)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_one_is_broadcast_as_before(name: str, batch: int) -> None:
    nodes, other = CASES[name]
    constants = "float[1,1,8] one = {1, 2, 3, 4, 5, 6, 7, 8}"
    _runs(graph(f"g (float[B,S,8] x, {other}) => (float[B,S,N] y) <{constants}> {{ {nodes} }}"), batch)


@pytest.mark.parametrize("name", ["?", "-1", "1", "*"])
def test_what_stands_in_the_place_of_a_name_says_nothing(name: str) -> None:
    model = parse(graph("g (float[B,S] x) => (float[S,B] y) { t = Transpose<perm = [1, 0]>(x) y = Tanh(t) }"))
    proto = model.to_proto()
    for size in proto.graph.input[0].type.tensor_type.shape.dim:
        size.dim_param = name
    again = Model.from_proto(proto)
    shapes.infer(again)
    rows, columns = again.graph.inputs[0].shape
    assert isinstance(rows, str)
    assert rows != columns
    assert again.graph.outputs[0].shape == [columns, rows]
