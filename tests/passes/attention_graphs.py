"""Graphs of one attention layer, in the parts that exporters spell differently: projections, scores, merge.

Two heads of four features on hidden states [B, S, 8]. A case gives the nodes that lead from the heads `q`, `k`, `v`
[B, 2, S, 4] (or the transposed keys `kt` [B, 2, 4, S]) and the masks to `o` [B, 2, S, 4].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.passes.support import equivalent, graph, normal, parse, run
from turbo_onnx import shapes
from turbo_onnx.model import Model

HEADS, SIZE, WIDTH = 2, 4, 8
RAISED = "turbo_onnx.raised.Attention"
LOWEST = "-3.4028234663852886e+38"

CONSTANTS = f"""
    int64[4] split = {{0, 0, 2, 4}}, int64[3] merge = {{0, 0, 8}},
    int64[2] one_two = {{1, 2}}, int64[2] one_three = {{1, 3}},
    float half = {{0.5}}, float root = {{0.7071067811865476}}, float two = {{2.0}}, float zero = {{0.0}},
    float unit = {{1.0}}, float infinite = {{-inf}}, float lowest = {{{LOWEST}}},
    float billion = {{-1000000000.0}}, float tenthousand = {{-10000.0}}
"""

QUERY = "mq = MatMul(x, wq) pq = Add(mq, bq) rq = Reshape(pq, split) q = Transpose<perm = [0,2,1,3]>(rq)"
KEY = "mk = MatMul(x, wk) pk = Add(bk, mk) rk = Reshape(pk, split) k = Transpose<perm = [0,2,1,3]>(rk)"
KEY_TRANSPOSED = KEY.replace("k = Transpose<perm = [0,2,1,3]>", "kt = Transpose<perm = [0,2,3,1]>")
VALUE = "mv = MatMul(x, wv) pv = Add(mv, bv) rv = Reshape(pv, split) v = Transpose<perm = [0,2,1,3]>(rv)"
MASK = "m4 = Unsqueeze(mask, one_two) keep = Cast<to = 9>(m4) hide = Not(keep)"
MERGE = "to = Transpose<perm = [0,2,1,3]>(o) merged = Reshape(to, merge) y = MatMul(merged, wo)"


def weights(*names: str) -> dict[str, np.ndarray]:
    """The projections' weights, all different, some biases among them."""
    shapes_of = {name: (WIDTH,) if name.startswith("b") else (WIDTH, WIDTH) for name in names}
    return {name: normal(*shape, seed=seed + 10) * 0.5 for seed, (name, shape) in enumerate(shapes_of.items())}


def layer(
    scores: str,
    *,
    query: str = QUERY,
    key: str = KEY_TRANSPOSED,
    value: str = VALUE,
    mask: str = MASK,
    merge: str = MERGE,
    constants: str = "",
    extra: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    outputs: str = "float[B,S,8] y",
    inputs: str = "",
    length: str = "S",
) -> Model:
    """The layer's model, with its shapes inferred. Dead parts of the text are left out."""
    outputs = outputs.replace("S", length)
    text = graph(
        f"g (float[B,{length},8] x, int64[B,{length}] mask{inputs}) => ({outputs}) <{CONSTANTS}{constants}> "
        f"{{ {query} {key} {value} {mask} {scores} {merge} }}",
        opset=opset,
    )
    model = parse(text, weights("wq", "wk", "wv", "wo", "bq", "bk", "bv") | (extra or {}))
    return cleaned(model)


def cleaned(model: Model) -> Model:
    """The model as the passes are given it: without dead nodes, sorted, with shapes."""
    from turbo_onnx.graph import Editor

    edit = Editor(model.graph)
    edit.remove_unused()
    edit.sort()
    shapes.infer(model)
    return model


def batches() -> Iterator[dict[str, np.ndarray]]:
    """Ragged masks: right and left padding, holes, a wholly masked row; one sequence; one token."""
    ragged = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.int64)
    yield {"x": normal(5, 5, WIDTH), "mask": ragged}
    yield {"x": normal(1, 3, WIDTH, seed=1), "mask": np.array([[1, 1, 0]], np.int64)}
    yield {"x": normal(2, 1, WIDTH, seed=2), "mask": np.array([[1], [0]], np.int64)}


def check_equivalent(before: Model, after: Model, *, position: bool = False) -> None:
    """Compare two layers on all batches, whose third input is a bias [1, 2, S, S] if they have `position`."""
    for batch in batches():
        length = batch["x"].shape[1]
        data = batch | {"position": normal(1, HEADS, length, length, seed=5)} if position else batch
        equivalent(run(before, data), after, data)
