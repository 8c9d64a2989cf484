"""MergeProjections: three products of one tensor become one, where no weight is then stored twice."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from tests.passes.attention_graphs import KEY_TRANSPOSED, MERGE, QUERY, VALUE, batches, layer
from tests.passes.support import apply, count, equivalent, normal, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from turbo_onnx.passes.merge_projections import MergeProjections
from turbo_onnx.passes.raise_attention import RaiseAttention

SCORES = "a = MatMul(q, kt) h = Mul(a, half) s = Where(keep, h, lowest) p = Softmax<axis = -1>(s) o = MatMul(p, v)"


def merged(model: Model) -> PassReport:
    RaiseAttention().run(model)
    FuseMultiHeadAttention().run(model)
    return apply(MergeProjections(), model)


def attentions(model: Model) -> list[gs.Node]:
    return [node for node in model.graph.nodes if node.op == "VarlenAttention"]


def again(text: str) -> str:
    """The same text for a second layer: every tensor of it that is not shared gets another name, and reads z."""
    words = {"x", "mq", "pq", "rq", "q", "mk", "pk", "rk", "kt", "mv", "pv", "rv", "v", "a", "h", "s", "p", "o", "to"}
    out, word = [], ""
    for character in text + " ":
        if character.isalnum() or character == "_":
            word += character
            continue
        out.append(("z" if word == "x" else f"{word}_again") if word in words else word)
        out.append(character)
        word = ""
    return "".join(out)


def two_layers(second: str = "") -> Model:
    """Two layers with the same weights. `second` is put in front of the second one."""
    first = f"{SCORES} to = Transpose<perm = [0,2,1,3]>(o) z = Reshape(to, merge)"
    body = again(f"{QUERY} {KEY_TRANSPOSED} {VALUE} {SCORES} t = Transpose<perm = [0,2,1,3]>(o)")
    return layer(f"{first} {body}", merge=f"merged = Reshape(t, merge) y = MatMul(merged, wo) {second}")


def test_three_products_become_one() -> None:
    before, after = layer(SCORES), layer(SCORES)
    report = merged(after)
    assert report.applied == 1
    assert count(after)["MatMul"] == 2
    node = attentions(after)[0]
    assert list(node.inputs[0].shape) == ["B", "S", 24]
    assert node.inputs[1].name == node.inputs[2].name == ""
    assert node.inputs[0].inputs[0].inputs[1].shape == (8, 24)
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def test_layers_with_the_same_weights_share_the_joined_one() -> None:
    before, after = two_layers(), two_layers()
    report = merged(after)
    assert report.applied == 2
    first, second = (node.inputs[0].inputs[0].inputs[1] for node in attentions(after))
    assert first is second
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def test_weights_that_are_read_elsewhere_are_not_stored_twice() -> None:
    model = layer(SCORES, merge=f"{MERGE} extra = MatMul(x, wk)", outputs="float[B,S,8] y, float[B,S,8] extra")
    report = merged(model)
    assert report.applied == 0
    assert "wk is read elsewhere too, and would be stored twice" in sentences(report)[0]


def test_projections_of_different_tensors_stay_apart() -> None:
    key = KEY_TRANSPOSED.replace("MatMul(x", "MatMul(memory")
    value = VALUE.replace("MatMul(x", "MatMul(memory")
    model = layer(
        "a = MatMul(q, kt) p = Softmax<axis = -1>(a) o = MatMul(p, v)",
        key=key,
        value=value,
        mask="",
        inputs=", float[B,L,8] memory",
    )
    assert "different tensors" in sentences(merged(model))[0]


def test_widths_that_differ_stay_apart() -> None:
    value = "mv = MatMul(x, wide) rv = Reshape(mv, split6) v = Transpose<perm = [0,2,1,3]>(rv)"
    merge = "to = Transpose<perm = [0,2,1,3]>(o) y = Reshape(to, merge12)"
    before, after = (
        layer(
            SCORES,
            value=value,
            merge=merge,
            constants=", int64[4] split6 = {0, 0, 2, 6}, int64[3] merge12 = {0, 0, 12}",
            extra={"wide": normal(8, 12)},
            outputs="float[B,S,12] y",
        )
        for _ in range(2)
    )
    assert "differ in width" in sentences(merged(after))[0]
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def test_a_projection_that_is_read_elsewhere_stays() -> None:
    model = layer(SCORES, merge=f"{MERGE} extra = Relu(mk)", outputs="float[B,S,8] y, float[B,S,8] extra")
    report = merged(model)
    assert report.applied == 0
    assert "not all products with a weight" in sentences(report)[0]


def test_joined_weights_stand_in_the_order_of_queries_keys_values() -> None:
    model = layer(SCORES)
    sources = {
        tensor.name: tensor.values
        for node in model.graph.nodes
        for tensor in node.inputs
        if isinstance(tensor, gs.Constant)
    }
    merged(model)
    joined = attentions(model)[0].inputs[0].inputs[0].inputs[1].values
    np.testing.assert_array_equal(joined, np.concatenate([sources[name] for name in ("wq", "wk", "wv")], axis=1))
