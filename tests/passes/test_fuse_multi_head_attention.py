"""FuseMultiHeadAttention: what splits and merges heads goes into the operator, with biases and packed weights."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.attention_graphs import KEY, KEY_TRANSPOSED, MERGE, QUERY, VALUE, batches, cleaned, layer
from tests.passes.support import apply, count, equivalent, graph, normal, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from turbo_onnx.passes.raise_attention import RaiseAttention
from turbo_onnx.passes.simplify_shapes import SimplifyShapes

FUSED = "turbo_onnx.VarlenAttention"
SCORES = (
    "a = MatMul(q, kt) h = Mul(a, half) b = Where(keep, zero, infinite) s = Add(h, b) sm = Softmax<axis = -1>(s) "
    "nan = IsNaN(sm) p = Where(nan, zero, sm) o = MatMul(p, v)"
)
PACKED = {"wqkv": normal(8, 24, seed=3) * 0.5, "bqkv": normal(24, seed=4) * 0.5}


def fused(model: Model) -> tuple[gs.Node, PassReport]:
    """Raise and fuse the model's attention; returns the fused node and the report."""
    RaiseAttention().run(model)
    report = apply(FuseMultiHeadAttention(), model)
    return next(node for node in model.graph.nodes if node.op == "VarlenAttention"), report


def given(node: gs.Node) -> list[str]:
    """The names of the operands that the node has."""
    names = ("query", "key", "value", "bias", "cu_seqlens", "attention_bias")
    return [name for name, tensor in zip(names, node.inputs, strict=False) if tensor.name]


def check_equivalent(before: Model, after: Model) -> None:
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def test_split_merge_and_biases_go_into_the_operator() -> None:
    before, after = layer(SCORES), layer(SCORES)
    node, report = fused(after)
    assert given(node) == ["query", "key", "value", "bias", "attention_bias"]
    assert (node.attrs["num_heads"], node.attrs["scale"], node.attrs["guard"], node.attrs["causal"]) == (2, 0.5, 1, 0)
    assert [list(tensor.shape) for tensor in node.inputs[:3]] == [["B", "S", 8]] * 3
    assert list(node.outputs[0].shape) == ["B", "S", 8]
    assert not {"Transpose", "Reshape", "Softmax", "Add"} & set(count(after))
    assert report.facts["attention_fused"] == 1
    check_equivalent(before, after)


PROJECTIONS = {
    "keys without bias": {"key": KEY_TRANSPOSED.replace("pk = Add(bk, mk) rk = Reshape(pk", "rk = Reshape(mk")},
    "queries scaled before the split": {
        "query": QUERY.replace("rq = Reshape(pq", "sq = Mul(pq, half) rq = Reshape(sq"),
    },
    "keys scaled before the split": {
        "key": KEY_TRANSPOSED.replace("rk = Reshape(pk", "sk = Div(pk, two) rk = Reshape(sk"),
    },
    "size left open": {
        "query": QUERY.replace("pq, split", "pq, open_size"),
        "constants": ", int64[4] open_size = {0, 0, 2, -1}",
    },
    "number left open": {
        "value": VALUE.replace("pv, split", "pv, open_number"),
        "constants": ", int64[4] open_number = {0, 0, -1, 4}",
    },
    "split, then transposed twice": {
        "value": VALUE.replace(
            "v = Transpose<perm = [0,2,1,3]>(rv)",
            "v1 = Transpose<perm = [2,0,1,3]>(rv) v = Transpose<perm = [1,0,2,3]>(v1)",
        ),
    },
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_in_any_spelling_are_folded(name: str) -> None:
    parts: dict[str, str] = PROJECTIONS[name]  # type: ignore[assignment]
    before, after = layer(SCORES, **parts), layer(SCORES, **parts)  # type: ignore[arg-type]
    node, _ = fused(after)
    assert given(node) == ["query", "key", "value", "bias", "attention_bias"]
    assert not {"Transpose", "Reshape", "Mul", "Div"} & set(count(after))
    check_equivalent(before, after)


def test_a_missing_bias_becomes_zeros() -> None:
    model = layer(SCORES, **PROJECTIONS["keys without bias"])  # type: ignore[arg-type]
    node, _ = fused(model)
    bias = node.inputs[3].values
    assert bias.shape == (24,)
    assert (bias[8:16] == 0).all()
    assert (bias[:8] != 0).all()


def test_no_bias_at_all_is_left_out() -> None:
    parts = {
        name: text.replace(f"Reshape(p{name[0]}", f"Reshape(m{name[0]}")
        for name, text in (("query", QUERY), ("key", KEY_TRANSPOSED), ("value", VALUE))
    }
    model = layer(SCORES, **parts)  # type: ignore[arg-type]
    node, _ = fused(model)
    assert given(node) == ["query", "key", "value", "attention_bias"]


QKV = "m = MatMul(x, wqkv) pqkv = Add(m, bqkv)"
PACKINGS = {
    "gathers": (
        f"{QKV} r = Reshape(pqkv, three_first) rq = Gather<axis = 2>(r, i0) rk = Gather<axis = 2>(r, i1) "
        "rv = Gather<axis = 2>(r, i2)",
        ", int64[5] three_first = {0, 0, 3, 2, 4}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}",
    ),
    "three axes moved to the front": (
        f"{QKV} r = Reshape(pqkv, three_first) t = Transpose<perm = [2,0,3,1,4]>(r) q = Gather<axis = 0>(t, i0) "
        "k = Gather<axis = 0>(t, i1) v = Gather<axis = 0>(t, i2)",
        ", int64[5] three_first = {0, 0, 3, 2, 4}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {-1}",
    ),
    "split of the last axis": (
        f"{QKV} sq, sk, sv = Split<axis = -1>(pqkv, thirds) rq = Reshape(sq, split) rk = Reshape(sk, split) "
        "rv = Reshape(sv, split)",
        ", int64[3] thirds = {8, 8, 8}",
    ),
    "slices": (
        f"{QKV} sq = Slice(pqkv, at0, at8, two1) sk = Slice(pqkv, at8, at16, two1) sv = Slice(pqkv, at16, end, two1) "
        "rq = Reshape(sq, split) rk = Reshape(sk, split) rv = Reshape(sv, split)",
        ", int64[1] at0 = {0}, int64[1] at8 = {8}, int64[1] at16 = {16}, int64[1] end = {9223372036854775807}, "
        "int64[1] two1 = {2}",
    ),
    "split of an axis of three": (
        f"{QKV} r = Reshape(pqkv, three_first) sq, sk, sv = Split<axis = 2>(r, ones) rq = Squeeze(sq, two1) "
        "rk = Squeeze(sk, two1) rv = Squeeze(sv, two1)",
        ", int64[5] three_first = {0, 0, 3, 2, 4}, int64[3] ones = {1, 1, 1}, int64[1] two1 = {2}",
    ),
    "interleaved head by head": (
        f"{QKV} r = Reshape(pqkv, head_first) sq, sk, sv = Split<axis = 3>(r, ones) rq = Squeeze(sq, three1) "
        "rk = Squeeze(sk, three1) rv = Squeeze(sv, three1)",
        ", int64[5] head_first = {0, 0, 2, 3, 4}, int64[3] ones = {1, 1, 1}, int64[1] three1 = {3}",
    ),
    "interleaved in each head's columns": (
        f"{QKV} r = Reshape(pqkv, wide_heads) rq, rk, rv = Split<axis = 3>(r, fours)",
        ", int64[4] wide_heads = {0, 0, 2, 12}, int64[3] fours = {4, 4, 4}",
    ),
    "values first": (
        f"{QKV} sv, sq, sk = Split<axis = -1>(pqkv, thirds) rq = Reshape(sq, split) rk = Reshape(sk, split) "
        "rv = Reshape(sv, split)",
        ", int64[3] thirds = {8, 8, 8}",
    ),
}
HEADS = "q = Transpose<perm = [0,2,1,3]>(rq) kt = Transpose<perm = [0,2,3,1]>(rk) v = Transpose<perm = [0,2,1,3]>(rv)"


def packed_layer(name: str, scores: str = SCORES, merge: str = MERGE) -> Model:
    projection, constants = PACKINGS[name]
    heads = "kt = Transpose<perm = [0,1,3,2]>(k)" if " v = " in projection else HEADS
    return layer(scores, query=projection, key=heads, value="", constants=constants, extra=PACKED, merge=merge)


@pytest.mark.parametrize("name", PACKINGS)
def test_one_packed_projection_is_read_as_it_is(name: str) -> None:
    before, after = packed_layer(name), packed_layer(name)
    node, _ = fused(after)
    assert given(node) == ["query", "bias", "attention_bias"]
    assert list(node.inputs[0].shape) == ["B", "S", 24]
    assert not {"Transpose", "Reshape", "Split", "Gather", "Slice"} & set(count(after))
    check_equivalent(before, after)


def test_a_packed_projection_that_is_read_elsewhere_keeps_its_bias() -> None:
    merge = f"{MERGE} extra = Identity(pqkv)"
    name = "split of the last axis"
    projection, constants = PACKINGS[name]
    before, after = (
        layer(
            SCORES,
            query=projection,
            key=HEADS,
            value="",
            constants=constants,
            extra=PACKED,
            merge=merge,
            outputs="float[B,S,8] y, float[B,S,24] extra",
        )
        for _ in range(2)
    )
    node, _ = fused(after)
    assert given(node) == ["query", "attention_bias"]
    check_equivalent(before, after)


def test_interleaved_weights_that_are_not_constant_are_split_as_before() -> None:
    projection, constants = PACKINGS["interleaved head by head"]
    projection = projection.replace(QKV, "m = MatMul(x, wqkv) pqkv = Relu(m)")
    before, after = (
        layer(SCORES, query=projection, key=HEADS, value="", constants=constants, extra=PACKED) for _ in range(2)
    )
    node, _ = fused(after)
    assert given(node) == ["query", "key", "value", "attention_bias"]
    check_equivalent(before, after)


def test_a_product_on_flattened_rows_is_read_through_its_reshape() -> None:
    projection = (
        "rows = Reshape(x, flat) m = Gemm(rows, wqkv, bqkv) pqkv = Reshape(m, unflat) "
        "sq, sk, sv = Split<axis = 2>(pqkv, thirds) rq = Reshape(sq, split) rk = Reshape(sk, split) "
        "rv = Reshape(sv, split)"
    )
    constants = ", int64[3] thirds = {8, 8, 8}, int64[2] flat = {-1, 8}, int64[3] unflat = {-1, 5, 24}"
    merge = "to = Transpose<perm = [0,2,1,3]>(o) rows2 = Reshape(to, flat) g = Gemm(rows2, wo) y = Reshape(g, unflat8)"
    before, after = (
        layer(
            SCORES,
            query=projection,
            key=HEADS,
            value="",
            merge=merge,
            extra=PACKED,
            length="5",
            constants=f"{constants}, int64[3] unflat8 = {{-1, 5, 8}}",
        )
        for _ in range(2)
    )
    node, _ = fused(after)
    assert given(node) == ["query", "attention_bias"]
    assert count(after)["Transpose"] == 0
    data = next(batches())
    equivalent(run(before, data), after, data)


def test_sequence_first_layout_is_turned_once() -> None:
    parts = {
        "query": (
            "xs = Transpose<perm = [1,0,2]>(x) mq = MatMul(xs, wq) pq = Add(mq, bq) rq = Reshape(pq, joined) "
            "q3 = Transpose<perm = [1,0,2]>(rq) q = Reshape(q3, heads)"
        ),
        "key": (
            "mk = MatMul(xs, wk) pk = Add(mk, bk) rk = Reshape(pk, joined) k3 = Transpose<perm = [1,2,0]>(rk) "
            "kt = Reshape(k3, heads_t)"
        ),
        "value": (
            "mv = MatMul(xs, wv) pv = Add(mv, bv) rv = Reshape(pv, joined) v3 = Transpose<perm = [1,0,2]>(rv) "
            "v = Reshape(v3, heads)"
        ),
        "merge": (
            "to = Transpose<perm = [2,0,1,3]>(o) merged = Reshape(to, flat) g = MatMul(merged, wo) "
            "gs = Reshape(g, sequence) y = Transpose<perm = [1,0,2]>(gs)"
        ),
    }
    constants = (
        ", int64[3] joined = {5, -1, 4}, int64[4] heads = {-1, 2, 5, 4}, int64[4] heads_t = {-1, 2, 4, 5}, "
        "int64[2] flat = {-1, 8}, int64[3] sequence = {5, -1, 8}"
    )
    before, after = (layer(SCORES, constants=constants, length="5", **parts) for _ in range(2))  # type: ignore[arg-type]
    node, _ = fused(after)
    assert given(node) == ["query", "key", "value", "bias", "attention_bias"]
    assert list(node.inputs[0].shape) == ["B", 5, 8]
    data = next(batches())
    equivalent(run(before, data), after, data)


def test_attention_across_two_sequences() -> None:
    memory = "mk = MatMul(memory, wk) pk = Add(bk, mk) rk = Reshape(pk, split) kt = Transpose<perm = [0,2,3,1]>(rk)"
    values = "mv = MatMul(memory, wv) pv = Add(mv, bv) rv = Reshape(pv, split) v = Transpose<perm = [0,2,1,3]>(rv)"
    scores = "a = MatMul(q, kt) p = Softmax<axis = -1>(a) o = MatMul(p, v)"
    before, after = (layer(scores, key=memory, value=values, mask="", inputs=", float[B,L,8] memory") for _ in range(2))
    node, _ = fused(after)
    assert list(node.inputs[1].shape) == ["B", "L", 8]
    data = next(batches()) | {"memory": normal(5, 7, 8, seed=9)}
    equivalent(run(before, data), after, data)


def test_heads_that_are_not_merged_are_split_again() -> None:
    merge = "z = Mul(o, half) to = Transpose<perm = [0,2,1,3]>(z) merged = Reshape(to, merge) y = MatMul(merged, wo)"
    before, after = layer(SCORES, merge=merge), layer(SCORES, merge=merge)
    _, report = fused(after)
    assert report.applied == 1
    check_equivalent(before, after)


def test_heads_that_are_merged_twice_are_replaced_twice() -> None:
    merge = (
        "to = Transpose<perm = [0,2,1,3]>(o) merged = Reshape(to, merge) y = MatMul(merged, wo) "
        "rows = Reshape(to, flat) extra = MatMul(rows, wo)"
    )
    before, after = (
        layer(SCORES, merge=merge, constants=", int64[2] flat = {-1, 8}", outputs="float[B,S,8] y, float[N,8] extra")
        for _ in range(2)
    )
    fused(after)
    assert (count(after)["Transpose"], count(after)["Reshape"]) == (0, 1)
    check_equivalent(before, after)


@pytest.mark.parametrize("read_elsewhere", [False, True])
def test_sizes_may_be_read_on_the_way_to_a_merge_for_that_merge(read_elsewhere: bool) -> None:
    merge = (
        "sizes = Shape(o) some = Slice(sizes, at0, at1) more = Slice(sizes, at2, at3) "
        "full = Concat<axis = 0>(some, more, eight) to = Transpose<perm = [0,2,1,3]>(o) merged = Reshape(to, full) "
        "y = MatMul(merged, wo)"
    )
    outputs = "float[B,S,8] y"
    if read_elsewhere:
        merge, outputs = f"{merge} batch = Neg(some)", f"{outputs}, int64[1] batch"
    constants = ", int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at2 = {2}, int64[1] at3 = {3}, int64[1] eight = {8}"
    before, after = (layer(SCORES, merge=merge, constants=constants, outputs=outputs) for _ in range(2))
    fused(after)
    assert (count(after)["Shape"], count(after)["Transpose"]) == ((1, 2) if read_elsewhere else (0, 0))
    check_equivalent(before, after)


ROTATED = (
    "lower = Slice(turned, at0, at2, at3) upper = Slice(turned, at2, at4, at3) minus = Neg(upper) "
    "swapped = Concat<axis = -1>(minus, lower) q = Mul(swapped, half)"
)
CUTS = ", int64[1] at0 = {0}, int64[1] at2 = {2}, int64[1] at3 = {3}, int64[1] at4 = {4}, int64[1] at8 = {8}"


def test_values_cut_out_of_wider_heads_are_not_taken_for_them() -> None:
    query = QUERY.replace(" q = ", " turned = ") + ROTATED
    value = (
        "mv = MatMul(x, wide) rv = Reshape(mv, pairs) tv = Transpose<perm = [0,2,1,3]>(rv) v = Slice(tv, at4, at8, at3)"
    )
    before, after = (
        layer(
            SCORES,
            query=query,
            value=value,
            constants=CUTS + ", int64[4] pairs = {0, 0, 2, 8}",
            extra={"wide": normal(8, 16, seed=6)},
        )
        for _ in range(2)
    )
    node, _ = fused(after)
    assert [list(tensor.shape) for tensor in node.inputs[:3]] == [["B", "S", 8]] * 3
    check_equivalent(before, after)


def test_keys_that_were_transposed_to_and_fro_are_taken_from_where_they_were() -> None:
    key = (
        f"{KEY.replace(' k = ', ' turned = ')} {ROTATED.replace('q = ', 'k1 = ')} size = Shape(k1) "
        "flat = Reshape(k1, rows) ft = Transpose<perm = [0,2,1]>(flat) shape = Gather<axis = 0>(size, order) "
        "kt = Reshape(ft, shape)"
    )
    constants = CUTS + ", int64[3] rows = {-1, 5, 4}, int64[4] order = {0, 1, 3, 2}"
    before, after = (layer(SCORES, key=key, constants=constants, length="5") for _ in range(2))
    SimplifyShapes().run(after)
    cleaned(after)
    fused(after)
    orders = {tuple(node.attrs["perm"]) for node in after.graph.nodes if node.op == "Transpose"}
    assert orders == {(0, 2, 1, 3)}
    data = next(batches())
    equivalent(run(before, data), after, data)


def test_the_mask_is_handed_on_untouched() -> None:
    model = layer(SCORES)
    node, _ = fused(model)
    where = node.inputs[5].inputs[0]
    assert where.op == "Where"
    assert list(node.inputs[5].shape) == ["B", 1, 1, "S"]


def test_a_soft_cap_is_handed_on() -> None:
    scores = "a = MatMul(q, kt) d = Div(a, two) t = Tanh(d) s = Mul(t, two) p = Softmax<axis = -1>(s) o = MatMul(p, v)"
    before, after = layer(scores), layer(scores)
    node, _ = fused(after)
    assert node.attrs["softcap"] == 2.0
    check_equivalent(before, after)


def refused(text: str) -> str:
    model = cleaned(parse(graph(text)))
    RaiseAttention().run(model)
    report = apply(FuseMultiHeadAttention(), model)
    assert count(model)["turbo_onnx.raised.Attention"] == 1
    return sentences(report)[0]


CORE = "kt = Transpose<perm = [0,1,3,2]>(k) a = MatMul(q, kt) p = Softmax<axis = -1>(a) o = MatMul(p, v)"


def test_double_precision_is_refused() -> None:
    kind = "double[B,2,S,4]"
    assert "only float32" in refused(f"g ({kind} q, {kind} k, {kind} v) => ({kind} o) {{ {CORE} }}")


def test_an_unknown_number_of_heads_is_refused() -> None:
    kind = "float[B,H,S,4]"
    assert "not known" in refused(f"g ({kind} q, {kind} k, {kind} v) => ({kind} o) {{ {CORE} }}")


def test_heads_without_split_or_merge_are_refused() -> None:
    kind = "float[B,2,S,4]"
    assert "neither split" in refused(f"g ({kind} q, {kind} k, {kind} v) => ({kind} o) {{ {CORE} }}")


def test_weights_of_interleaved_heads_are_permuted_offline() -> None:
    model = packed_layer("interleaved head by head")
    node, _ = fused(model)
    weight = node.inputs[0].inputs[0].inputs[1].values
    expected = PACKED["wqkv"].reshape(8, 2, 3, 4).transpose(0, 2, 1, 3).reshape(8, 24)
    np.testing.assert_array_equal(weight, expected)
    np.testing.assert_array_equal(node.inputs[3].values, PACKED["bqkv"].reshape(2, 3, 4).transpose(1, 0, 2).reshape(-1))
