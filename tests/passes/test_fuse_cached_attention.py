"""FuseMultiHeadAttention where keys and values come from a cache: they are read by head, and never turned."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.attention_graphs import KEY, VALUE, batches, layer
from tests.passes.support import apply, count, equivalent, normal, run, sentences
from tests.passes.test_fuse_multi_head_attention import fused, given
from turbo_onnx.model import Model
from turbo_onnx.passes.merge_projections import MergeProjections

SCORES = "a = MatMul(q, kt) h = Mul(a, half) p = Softmax<axis = -1>(h) o = MatMul(p, v)"
NEW_VALUE = VALUE.replace(" v = ", " nv = ")
CACHE = normal(5, 2, 6, 4, seed=9)
TURNED = "kt = Transpose<perm = [0,1,3,2]>(ks)"


def by_head(node: gs.Node) -> bool:
    return bool(node.attrs.get("keys_by_head", 0))


def check(key: str, value: str, inputs: str, data: dict[str, np.ndarray], **parts: str) -> tuple[gs.Node, Model]:
    """Fuse the attention and compare it with what it was; returns the fused node and its model."""
    given_parts = {"scores": SCORES, "mask": "", **parts}
    before, after = (layer(key=key, value=value, inputs=inputs, **given_parts) for _ in range(2))  # type: ignore[arg-type]
    node, _ = fused(after)
    feeds = next(batches()) | data
    equivalent(run(before, feeds), after, feeds)
    return node, after


APPENDED = {
    "key": f"{KEY} ks = Concat<axis = 2>(past_k, k) {TURNED}",
    "value": f"{NEW_VALUE} v = Concat<axis = -2>(past_v, nv)",
    "inputs": ", float[B,2,P,4] past_k, float[B,2,P,4] past_v",
    "data": {"past_k": CACHE, "past_v": CACHE + 1},
}


def test_a_cache_that_new_keys_are_appended_to_is_read_by_head() -> None:
    node, after = check(**APPENDED)  # type: ignore[arg-type]
    assert by_head(node)
    assert given(node) == ["query", "key", "value"]
    assert [list(tensor.shape)[:2] for tensor in node.inputs[1:3]] == [["B", 2]] * 2
    assert [tensor.inputs[0].op for tensor in node.inputs[1:3]] == ["Concat"] * 2
    assert count(after)["Transpose"] == 2  # of new keys and values


def test_a_cache_that_is_written_to_in_place_is_read_by_head() -> None:
    where = "shape = Shape(nv) at = Expand(rows, shape)"
    node, after = check(
        f"{KEY} {NEW_VALUE} {where} ks = ScatterElements<axis = 2>(past_k, at, k) {TURNED}",
        "v = ScatterElements<axis = 2>(past_v, at, nv)",
        ", float[B,2,9,4] past_k, float[B,2,9,4] past_v, int64[1,1,S,1] rows",
        {
            "past_k": normal(5, 2, 9, 4, seed=8),
            "past_v": normal(5, 2, 9, 4, seed=9),
            "rows": np.array([3, 4, 5, 6, 7], np.int64).reshape(1, 1, 5, 1),
        },
    )
    assert by_head(node)
    assert count(after)["Transpose"] == 2


def test_a_cache_of_another_sequence_is_read_as_it_is() -> None:
    node, after = check(
        "kt = Transpose<perm = [0,1,3,2]>(past_k)",
        "v = Identity(past_v)",
        ", float[B,2,P,4] past_k, float[B,2,P,4] past_v",
        {"past_k": CACHE, "past_v": CACHE + 1},
    )
    assert [tensor.name for tensor in node.inputs[1:3]] == ["past_k", "past_v"]
    assert by_head(node)
    assert count(after)["Transpose"] == 0


def test_heads_of_a_cache_that_several_heads_of_queries_share_are_not_repeated() -> None:
    repeat = "u{x} = Unsqueeze({c}, at2) e{x} = Expand(u{x}, twice) {r} = Reshape(e{x}, four_heads)"
    node, after = check(
        f"{repeat.format(x='k', c='past_k', r='ks')} {TURNED}",
        repeat.format(x="v", c="past_v", r="v"),
        ", float[B,2,P,2] past_k, float[B,2,P,2] past_v",
        {"past_k": CACHE[..., :2], "past_v": CACHE[..., 2:]},
        query="mq = MatMul(x, wq) rq = Reshape(mq, halves) q = Transpose<perm = [0,2,1,3]>(rq)",
        constants=", int64[1] at2 = {2}, int64[5] twice = {1, 1, 2, 1, 1}, int64[4] four_heads = {0, 4, -1, 2}, "
        "int64[4] halves = {0, 0, 4, 2}",
    )
    assert by_head(node)
    assert (node.attrs["num_heads"], node.attrs["kv_num_heads"]) == (4, 2)
    assert not {"Expand", "Transpose"} & set(count(after))


def test_one_head_in_a_cache_is_read_by_head() -> None:
    node, _ = check(
        "kt = Transpose<perm = [0,1,3,2]>(past_k)",
        "v = Identity(past_v)",
        ", float[B,1,P,4] past_k, float[B,1,P,4] past_v",
        {"past_k": CACHE[:, :1], "past_v": CACHE[:, 1:]},
        constants=", int64[4] one_head = {0, 1, 2, 4}",
    )
    assert by_head(node)
    assert node.attrs["kv_num_heads"] == 1


def test_factors_behind_a_cache_are_the_scales_or_stay() -> None:
    """Of keys and of values."""
    node, after = check(
        f"{KEY} all = Concat<axis = 2>(past_k, k) ks = Mul(all, half) {TURNED}",
        f"{NEW_VALUE} vs = Concat<axis = 2>(past_v, nv) v = Mul(vs, half)",
        str(APPENDED["inputs"]),
        APPENDED["data"],  # type: ignore[arg-type]
    )
    assert by_head(node)
    assert node.attrs["scale"] == 0.25
    assert [tensor.inputs[0].op for tensor in node.inputs[1:3]] == ["Concat", "Mul"]
    assert count(after)["Mul"] == 1


@pytest.mark.parametrize(("size", "expected"), [(4, False), (2, True)])
def test_of_keys_by_head_and_values_in_rows_the_smaller_are_turned(size: int, expected: bool) -> None:
    """Values of 2 columns a head are less than keys of 4."""
    node, _ = check(
        "kt = Transpose<perm = [0,1,3,2]>(past_k)",
        "rv = Reshape(past_v, cut) v = Transpose<perm = [0,2,1,3]>(rv)",
        f", float[B,2,P,4] past_k, float[B,P,{2 * size}] past_v",
        {"past_k": CACHE, "past_v": CACHE.transpose(0, 2, 1, 3).reshape(5, 6, 8)[..., : 2 * size]},
        scores=SCORES if size == 4 else f"{SCORES.replace('o = ', 'narrow = ')} o = Concat<axis = 3>(narrow, narrow)",
        constants=f", int64[4] cut = {{0, 0, 2, {size}}}",
    )
    assert by_head(node) == expected
    turned = node.inputs[2].inputs[0] if expected else node.inputs[1].inputs[0].inputs[0].inputs[0]
    assert turned.op == "Transpose"
    assert [tensor.name for tensor in node.inputs[1:3] if not tensor.inputs] == ["past_k" if expected else "past_v"]


def test_a_cache_with_its_heads_side_by_side_is_read_in_rows() -> None:
    node, after = check(
        "kt = Transpose<perm = [0,2,3,1]>(past_k)",
        "v = Transpose<perm = [0,2,1,3]>(past_v)",
        ", float[B,P,2,4] past_k, float[B,P,2,4] past_v",
        {"past_k": CACHE.transpose(0, 2, 1, 3), "past_v": CACHE.transpose(0, 2, 1, 3) + 1},
    )
    assert not by_head(node)
    assert list(node.inputs[1].shape) == ["B", "P", 8]
    assert count(after)["Transpose"] == 0


def test_as_many_keys_as_queries_become_rows() -> None:
    """They are of the same tokens, and rows of them can be packed."""
    node, _ = check(f"{KEY} ks = Softplus(k) {TURNED}", f"{NEW_VALUE} v = Softplus(nv)", "", {})
    assert not by_head(node)


def test_a_bias_of_the_queries_stays_in_front() -> None:
    """Else one of zeros would be added to all that the cache holds."""
    node, after = check(**APPENDED)  # type: ignore[arg-type]
    assert node.inputs[0].inputs[0].op == "Add"
    assert count(after)["Add"] == 3


def test_projections_of_new_keys_are_not_merged_with_what_a_cache_holds() -> None:
    _, after = check(**APPENDED)  # type: ignore[arg-type]
    report = apply(MergeProjections(), after)
    assert report.applied == 0
    assert "are by head, and no columns of rows" in sentences(report)[0]
