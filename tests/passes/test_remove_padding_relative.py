"""RemovePadding around attention whose scores depend on where keys stand seen from a query, as in DeBERTa.

Such terms are computed from rows of queries and keys, so their padding must be shown to stay among padding.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import EMBEDDING, VARLEN, model, pack, same_on_tokens
from tests.passes.support import normal
from tests.test_padding_flow import Flow
from turbo_onnx.model import Model

CONSTANTS = """, int64 first_axis = {0}, int64 second = {1}, int64[1] heads = {2}, int64[1] four = {4}, int64 low = {0},
    int64 high = {4}, int64[1] rest = {-1}, int64 last_axis = {2}"""
POSITIONS = """
    sh = Shape(ids) length = Gather(sh, second) here = Range(first_axis, length, second) size = Unsqueeze(length, axis0)
    row = Unsqueeze(here, axis0) column = Unsqueeze(here, axis1) away = Sub(column, row) above = Add(away, two)
    clipped = Clip(above, low, high) far = Unsqueeze(clipped, axis0)
    of_heads = Concat<axis = 0>(rest, size, four) of_scores = Concat<axis = 0>(rest, heads, size, size)
    split = Concat<axis = 0>(axis0, axis0, heads, four)
"""
PROJECTIONS = "q = MatMul(h0, wq) k = MatMul(h0, wk) v = MatMul(h0, wv)"
QUERIES = """
    q4 = Reshape(q, split) qt = Transpose<perm = [0, 2, 1, 3]>(q4) q3 = Reshape(qt, of_heads)
    qp = MatMul(q3, to_places) all = Shape<start = 0, end = 1>(q3) whole = Concat<axis = 0>(all, size, size)
    places = Expand(far, whole) qs = GatherElements<axis = -1>(qp, places)
"""
KEYS = """
    k4 = Reshape(k, split) kt = Transpose<perm = [0, 2, 1, 3]>(k4) k3 = Reshape(kt, of_heads)
    kp = MatMul(k3, from_places) kg = GatherElements<axis = -1>(kp, places) ks = Transpose<perm = [0, 2, 1]>(kg)
"""
SUM = "both = Add(qs, ks) scores = Reshape(both, of_scores)"
HIDDEN = "m = Cast<to = 9>(mask) m4 = Unsqueeze(m, axes12) bias = Where(m4, scores, lowest)"
ADDED = """
    mf = Cast<to = 1>(mask) no = Sub(one, mf) n4 = Unsqueeze(no, axes12) mb = Mul(n4, lowest) bias = Add(scores, mb)
"""
ATTENTION = f"a = {VARLEN}<num_heads = 2, scale = 0.5>(q, k, v, , , bias) o = MatMul(a, wo) y = Add(o, h0)"
MASKED = "um = Unsqueeze(mask, axis2) uf = Cast<to = 1>(um) h0 = Mul(n0, uf)"
LAYER = {
    "embedding": EMBEDDING,
    "positions": POSITIONS,
    "projections": PROJECTIONS,
    "queries": QUERIES,
    "keys": KEYS,
    "sum": SUM,
    "hidden": HIDDEN,
    "attention": ATTENTION,
}


def nodes(**changed: str) -> str:
    return "".join((LAYER | changed).values())


def relative(text: str, outputs: str = "float[B,S,8] y") -> Model:
    return model(text, outputs, constants=CONSTANTS, extra=tables())


def tables() -> dict[str, np.ndarray]:
    return {"to_places": normal(4, 5, seed=60), "from_places": normal(4, 5, seed=61)}


def flow_of(text: str, outputs: str = "float[B,S,8] y") -> Flow:
    return Flow(text, outputs, constants=CONSTANTS, extra=tables())


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"hidden": ADDED},
        {"queries": QUERIES + "qd = Div(qs, shy)", "sum": SUM.replace("qs", "qd")},
        {"embedding": EMBEDDING.replace("h0 =", "n0 =") + MASKED},
    ],
    ids=["chosen", "added", "divided", "masked embedding"],
)  # fmt: skip
def test_layers_around_it_leave_the_padding_out(changed: dict[str, str]) -> None:
    before, after = relative(nodes(**changed)), relative(nodes(**changed))
    report = pack(after)
    assert report.facts["packed"] == "partial"
    ranks = [len(node.outputs[0].shape) for node in after.graph.nodes if node.op in ("MatMul", "Gemm")]
    assert sorted(ranks) == [2, 2, 2, 2, 3, 3]  # projections on packed rows; queries and keys by their places
    same_on_tokens(before, after)


def test_rows_are_restored_once_for_attention_and_its_places() -> None:
    after = relative(nodes())
    pack(after)
    assert sum(node.op == "RestorePadding" for node in after.graph.nodes) == 4  # queries, keys, values, the output


REFUSED = {
    "scores that depend on a whole sequence": {
        "queries": QUERIES + "qn = Softmax<axis = 1>(qs)",
        "sum": SUM.replace("qs", "qn"),
    },
    "a running sum over tokens": {
        "queries": QUERIES + "qn = CumSum(qs, second)",
        "sum": SUM.replace("qs", "qn"),
    },
    "tokens seen from others": {
        "queries": QUERIES + "qn = Transpose<perm = [0, 2, 1]>(qs) qm = MatMul(qn, qs)",
        "sum": SUM.replace("qs", "qm"),
    },
    "other sequences": {
        "queries": QUERIES + "qb = Slice(qs, rest, far_back, axis0, rest)",
        "sum": SUM.replace("qs", "qb"),
    },
    "numbers of any size": {"projections": "e0 = Exp(h0)" + PROJECTIONS.replace("q = MatMul(h0", "q = MatMul(e0")},
    "a mask that hides less than scores may be": {
        "queries": QUERIES + "qn = Mul(qs, large)",
        "sum": SUM.replace("qs", "qn"),
        "hidden": HIDDEN.replace("lowest", "few"),
    },
    "numbers that are larger than what hides padding": {
        "queries": QUERIES + "qa = Abs(qs) qn = Mul(qa, huge)",
        "sum": SUM.replace("qs", "qn"),
        "hidden": ADDED.replace("lowest", "few"),
    },
    "numbers of any size, but for a token with itself": {
        "sum": "qk = Add(qs, ks) e = Mul(qk, huge) p = Exp(e) itself = Equal(row, column)"
        "both = Where(itself, zero, p) scores = Reshape(both, of_scores)",
        "hidden": ADDED.replace("lowest", "few"),
    },
    "quotients of tokens, which are no numbers for zeros": {
        "keys": KEYS + "kq = Div(ks, ks) kn = Tanh(kq)",
        "sum": SUM.replace("ks", "kn"),
        "hidden": ADDED,
    },
    "whole numbers that are divided by": {
        "keys": KEYS + "kw = Sign(ks) ki = Cast<to = 7>(kw) kd = Div(two, ki) kf = Cast<to = 1>(kd) kn = Tanh(kf)",
        "sum": SUM.replace("ks", "kn"),
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_padding_stays_where_it_may_reach_tokens(name: str) -> None:
    more = ", float few = {-10000.0}, float large = {100.0}, float huge = {100000.0}"
    more += ", int64[1] far_back = {-9223372036854775807}"
    text = nodes(**REFUSED[name])
    flow = Flow(text, constants=CONSTANTS + more, extra=tables())
    assert False in flow.ignorable("q4", "k4")
    before, after = (model(text, constants=CONSTANTS + more, extra=tables()) for _ in range(2))
    pack(after)
    same_on_tokens(before, after, zeros=False)


def test_scores_that_are_an_output_keep_their_padding() -> None:
    outputs = "float[B,S,8] y, float[B,2,S,S] scores"
    assert flow_of(nodes(), outputs).ignorable("q4", "k4") == [False, False]


def test_attention_without_a_mask_reads_all_of_its_bias() -> None:
    flow = flow_of(nodes(hidden="bias = Identity(scores)"))
    assert flow.ignorable("q4", "k4", "h0") == [False, False, False]


def test_where_rows_of_padding_are_read_further_on_so_are_those_of_queries_and_keys() -> None:
    text = nodes(attention=ATTENTION.replace("y = Add(o, h0)", "y = ReduceMean<axes = [1], keepdims = 0>(o)"))
    assert flow_of(text, "float[B,8] y").ignorable("q4", "k4") == [False, False]


def test_rows_of_the_mask_itself_are_what_hides_padding() -> None:
    assert flow_of(nodes()).ignorable("m", "q4", "k4") == [False, True, True]
