"""Sizes that the file gives different names may differ: where one is 1 it is broadcast."""

from __future__ import annotations

import pytest

from tests.passes.support import equivalent, graph, normal, parse
from turbo_onnx import pipeline

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
