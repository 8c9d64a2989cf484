"""Heads of keys and values that several heads of queries share are taken as they are, however they are repeated."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from tests.passes.attention_graphs import batches, layer
from tests.passes.support import apply, count, equivalent, normal, run
from turbo_onnx.model import Model
from turbo_onnx.passes.cancel_transposes import CancelTransposes
from turbo_onnx.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from turbo_onnx.passes.raise_attention import RaiseAttention

WEIGHTS = {
    "wq4": normal(8, 16, seed=5) * 0.5,
    "wk2": normal(8, 8, seed=6) * 0.5,
    "wv2": normal(8, 8, seed=7) * 0.5,
    "wk1": normal(8, 4, seed=6) * 0.5,
    "wv1": normal(8, 4, seed=7) * 0.5,
    "wo4": normal(16, 8, seed=8) * 0.5,
    "bk2": normal(8, seed=9),
    "wqkv": normal(8, 32, seed=10) * 0.5,
    "bqkv": normal(32, seed=11),
}
CONSTANTS = """
    , int64[4] fours = {0, 0, 4, 4}, int64[4] twos = {0, 0, 2, 4}, int64[4] ones = {0, 0, 1, 4},
    int64[3] all = {0, 0, 16},
    int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at2 = {2}, int64[1] at3 = {3}, int64[5] twice2 = {1, 1, 2, 1, 1},
    int64[5] twice3 = {1, 1, 1, 2, 1}, int64[5] twice1 = {1, 2, 1, 1, 1}, int64[4] four2 = {0, 4, -1, 4},
    int64[4] every1 = {1, 4, 1, 1}, int64[3] parts = {16, 8, 8}, int64[5] groups = {0, 0, 2, 4, 4},
    int64[3] members = {2, 1, 1}, int64[5] apart = {0, 0, 2, 1, 4}
"""
QUERY = "mq = MatMul(x, wq4) rq = Reshape(mq, fours) q = Transpose<perm = [0,2,1,3]>(rq)"
SCORES = (
    "kt = Transpose<perm = [0,1,3,2]>(k) a = MatMul(q, kt) h = Mul(a, half) b = Where(keep, zero, lowest) "
    "s = Add(h, b) p = Softmax<axis = -1>(s) o = MatMul(p, v)"
)
MERGE = "to = Transpose<perm = [0,2,1,3]>(o) merged = Reshape(to, all) y = MatMul(merged, wo4)"
HEADS = "rX = Reshape(mX, twos) hX = Transpose<perm = [0,2,1,3]>(rX)"
SPREAD = f"{HEADS} gX = Unsqueeze(hX, at2) eX = Expand(gX, twice2) X = Reshape(eX, four2)"
REPEATS = {
    "behind the transposition": SPREAD,
    "by Tile": SPREAD.replace("Expand", "Tile"),
    "with tokens in front": (
        "rX = Reshape(mX, twos) gX = Unsqueeze(rX, at3) eX = Expand(gX, twice3) fX = Reshape(eX, fours) "
        "X = Transpose<perm = [0,2,1,3]>(fX)"
    ),
    "split as they are repeated": (
        "rX = Reshape(mX, apart) eX = Expand(rX, twice3) fX = Reshape(eX, fours) X = Transpose<perm = [0,2,1,3]>(fX)"
    ),
}


def shared(repeat: str, *, value: str | None = None, products: str = "", scores: str = SCORES) -> Model:
    """An attention of four heads of queries; `repeat` makes keys (for X) and values of their projections mk and mv."""
    products = products or "mk0 = MatMul(x, wk2) mk = Add(mk0, bk2) mv = MatMul(x, wv2)"
    return layer(
        scores,
        query=QUERY,
        key=f"{products} {repeat.replace('X', 'k')}",
        value=(repeat if value is None else value).replace("X", "v"),
        merge=MERGE,
        constants=CONSTANTS,
        extra=WEIGHTS,
    )


def fused(model: Model) -> gs.Node:
    RaiseAttention().run(model)
    apply(FuseMultiHeadAttention(), model)
    return next(node for node in model.graph.nodes if node.op == "VarlenAttention")


def check(before: Model, after: Model) -> None:
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def widths(node: gs.Node) -> list[int]:
    return [tensor.shape[2] for tensor in node.inputs[:3]]


@pytest.mark.parametrize("name", REPEATS)
def test_heads_that_queries_share_are_not_repeated(name: str) -> None:
    before, after = shared(REPEATS[name]), shared(REPEATS[name])
    node = fused(after)
    assert (node.attrs["num_heads"], node.attrs["kv_num_heads"]) == (4, 2)
    assert widths(node) == [16, 8, 8]
    assert node.inputs[3].shape == (32,), "biases are the operator's"
    assert not {"Transpose", "Expand", "Tile", "Reshape"} & set(count(after))
    check(before, after)


ONE = "mk = MatMul(x, wk1) mv = MatMul(x, wv1)"
ONE_HEAD = "rX = Reshape(mX, ones) X = Transpose<perm = [0,2,1,3]>(rX)"


@pytest.mark.parametrize("repeat", [ONE_HEAD, f"{ONE_HEAD.replace(' X =', ' hX =')} X = Expand(hX, every1)"])
def test_one_head_may_be_shared_by_all(repeat: str) -> None:
    before, after = shared(repeat, products=ONE), shared(repeat, products=ONE)
    node = fused(after)
    assert (node.attrs["kv_num_heads"], widths(node)) == (1, [16, 4, 4])
    assert not {"Transpose", "Expand", "Reshape"} & set(count(after))
    check(before, after)


def test_one_head_that_is_squeezed_is_computed_with_tokens_in_front() -> None:
    key = (
        f"{ONE} rk = Reshape(mk, ones) hk = Transpose<perm = [0,2,1,3]>(rk) nk = Neg(hk) sk = Reshape(nk, three) "
        "tk = Transpose<perm = [0,2,1]>(sk) kt = Reshape(tk, lying)"
    )
    constants = CONSTANTS + ", int64[3] three = {0, -1, 4}, int64[4] lying = {-1, 1, 4, 5}"
    scores = SCORES.removeprefix("kt = Transpose<perm = [0,1,3,2]>(k) ")
    before, after = (
        layer(scores, query=QUERY, key=key, value=ONE_HEAD.replace("X", "v"), merge=MERGE, constants=constants,
              extra=WEIGHTS, length="5")
        for _ in range(2)
    )  # fmt: skip
    node = fused(after)
    apply(CancelTransposes(), after)
    assert (node.attrs["kv_num_heads"], widths(node)) == (1, [16, 4, 4])
    assert count(after)["Transpose"] == 0
    data = next(batches())
    equivalent(run(before, data), after, data)


def test_keys_scaled_behind_their_repetition_scale_the_scores() -> None:
    repeat = SPREAD.replace(" X =", " uX =") + " X = Mul(uX, half)"
    before, after = shared(repeat, value=SPREAD), shared(repeat, value=SPREAD)
    node = fused(after)
    assert (node.attrs["kv_num_heads"], node.attrs["scale"]) == (2, 0.25)
    check(before, after)


def test_values_scaled_behind_their_repetition_are_repeated_as_before() -> None:
    repeat = SPREAD.replace(" X =", " uX =") + " X = Mul(uX, half)"
    before, after = shared(SPREAD, value=repeat), shared(SPREAD, value=repeat)
    assert widths(fused(after)) == [16, 16, 16]
    check(before, after)


def test_keys_and_values_that_different_numbers_of_queries_share_are_repeated_as_before() -> None:
    one = f"mv1 = MatMul(x, wv1) {ONE_HEAD.replace(' X =', ' hX =').replace('mX', 'mv1')} X = Expand(hX, every1)"
    before, after = shared(SPREAD, value=one), shared(SPREAD, value=one)
    node = fused(after)
    assert "kv_num_heads" not in node.attrs
    assert widths(node) == [16, 16, 16]
    check(before, after)


def test_keys_alone_are_repeated_with_tokens_in_front() -> None:
    value = "wide = MatMul(x, wq4) rv = Reshape(wide, fours) v = Transpose<perm = [0,2,1,3]>(rv)"
    before, after = shared(SPREAD, value=value), shared(SPREAD, value=value)
    node = fused(after)
    assert "kv_num_heads" not in node.attrs
    assert widths(node) == [16, 16, 16]
    assert count(after)["Transpose"] == 0
    check(before, after)


def test_heads_that_are_repeated_in_another_order_are_not_taken_apart() -> None:
    """[B, n, G, S, D]: all heads, and all of them again."""
    repeat = SPREAD.replace("Unsqueeze(hX, at2)", "Unsqueeze(hX, at1)").replace("twice2", "twice1")
    before, after = shared(repeat), shared(repeat)
    assert "kv_num_heads" not in fused(after).attrs
    check(before, after)


PROJECTION = "m = MatMul(x, wqkv) pqkv = Add(m, bqkv)"
PACKINGS = {
    "one after the other": f"{PROJECTION} mq, mk, mv = Split<axis = -1>(pqkv, parts) rq = Reshape(mq, fours)",
    "in groups of queries with their key and value": (
        f"{PROJECTION} r = Reshape(pqkv, groups) gq, mk, mv = Split<axis = 3>(r, members) rq = Reshape(gq, fours)"
    ),
}
GROUP_MEMBER = "eX = Expand(mX, twice3) fX = Reshape(eX, fours) X = Transpose<perm = [0,2,1,3]>(fX)"


@pytest.mark.parametrize("name", PACKINGS)
def test_one_projection_of_queries_and_shared_heads_is_read_as_it_is(name: str) -> None:
    repeat = SPREAD if name == "one after the other" else GROUP_MEMBER
    query = PACKINGS[name] + " q = Transpose<perm = [0,2,1,3]>(rq)"
    before, after = (
        layer(SCORES, query=query, key=repeat.replace("X", "k"), value=repeat.replace("X", "v"), merge=MERGE,
              constants=CONSTANTS, extra=WEIGHTS)
        for _ in range(2)
    )  # fmt: skip
    node = fused(after)
    assert (node.attrs["kv_num_heads"], list(node.inputs[0].shape)) == (2, ["B", "S", 32])
    assert not node.inputs[1].name
    assert node.inputs[3].shape == (32,)
    assert not {"Transpose", "Expand", "Reshape", "Split"} & set(count(after))
    check(before, after)
