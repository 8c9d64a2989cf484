"""RaiseAttention: the standard operator of opset 23 becomes the raised one where that means the same."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import KEY, MERGE, RAISED, check_equivalent, layer
from tests.passes.support import apply, count, normal, sentences
from turbo_onnx.passes.raise_attention import RaiseAttention

STANDARD = {
    "boolean mask": (
        "bits = Cast<to = 9>(mask) seen = Unsqueeze(bits, one_two) seeing = Unsqueeze(bits, one_three) "
        "keep = And(seen, seeing)",
        "o = Attention<scale = 0.25>(q, k, v, keep)",
    ),
    "no mask, scale from the size": ("", "o = Attention(q, k, v)"),
    "causal": ("", "o = Attention<is_causal = 1>(q, k, v)"),
}


@pytest.mark.parametrize("name", STANDARD)
def test_the_standard_operator_is_brought_to_the_raised_form(name: str) -> None:
    mask, node = STANDARD[name]
    before, after = (layer(node, key=KEY, mask=mask, opset=23) for _ in range(2))
    apply(RaiseAttention(), after)
    assert (count(after)[RAISED], count(after)["Attention"]) == (1, 0)
    check_equivalent(before, after)


def test_the_standard_operator_on_three_axes() -> None:
    node = "y = Attention<q_num_heads = 2, kv_num_heads = 2>(pq, pk, pv)"
    before, after = (layer(node, mask="", merge="", opset=23) for _ in range(2))
    apply(RaiseAttention(), after)
    assert count(after)[RAISED] == 1
    check_equivalent(before, after)


GROUPED = {"wq4": normal(8, 16, seed=5), "wk2": normal(8, 8, seed=6), "wv2": normal(8, 6, seed=7)}


@pytest.mark.parametrize("flat", [False, True])
def test_the_standard_operator_with_keys_that_queries_share(flat: bool) -> None:
    projections = "pq4 = MatMul(x, wq4) pk2 = MatMul(x, wk2) pv2 = MatMul(x, wv2)"
    constants = ", int64[4] fours = {0, 0, 4, 4}, int64[4] twos = {0, 0, 2, -1}, int64[3] all = {0, 0, 12}"
    split = (
        "rq4 = Reshape(pq4, fours) rk2 = Reshape(pk2, twos) rv2 = Reshape(pv2, twos) "
        "q = Transpose<perm = [0,2,1,3]>(rq4) k = Transpose<perm = [0,2,1,3]>(rk2) v = Transpose<perm = [0,2,1,3]>(rv2)"
    )
    attention = (
        "y = Attention<q_num_heads = 4, kv_num_heads = 2>(pq4, pk2, pv2)"
        if flat
        else f"{split} o = Attention(q, k, v) to = Transpose<perm = [0,2,1,3]>(o) y = Reshape(to, all)"
    )
    before, after = (
        layer(attention, query=projections, key="", value="", mask="", merge="", constants=constants, extra=GROUPED,
              outputs="float[B,S,12] y", opset=23)
        for _ in range(2)
    )  # fmt: skip
    apply(RaiseAttention(), after)
    (node,) = [node for node in after.graph.nodes if node.op == "Attention"]
    assert [tensor.shape[1] for tensor in node.inputs[:3]] == [4, 2, 2]
    check_equivalent(before, after)


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("o = Attention<softcap = 30.0>(q, k, v)", "caps its scores"),
        ("o, present_k, present_v = Attention(q, k, v, , q, k)", "cache"),
    ],
)
def test_what_the_raised_form_lacks_stays_standard(node: str, sentence: str) -> None:
    merge = MERGE if "present" not in node else f"{MERGE} keep_k = Identity(present_k)"
    model = layer(node, key=KEY, mask="", merge=merge, opset=23)
    report = apply(RaiseAttention(), model)
    assert count(model)["Attention"] == 1
    assert sentence in sentences(report)[0]
