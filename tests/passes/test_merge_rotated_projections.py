"""MergeProjections where queries and keys are rotated: one product, one rotation, whatever they were cut out of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import apply, count, equivalent, normal, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.merge_projections import MergeProjections

INPUTS = "float[T,6] x, float[P,4] cos, float[P,4] sin, int64[T] at, int32[N] cu"
WEIGHTS = {
    "wq": normal(6, 8, seed=1), "wk": normal(6, 8, seed=2), "wv": normal(6, 8, seed=3),
    "narrow_k": normal(6, 4, seed=4), "narrow_v": normal(6, 4, seed=5), "wide": normal(6, 24, seed=6),
    "bq": normal(8, seed=7), "bk": normal(8, seed=8), "ball": normal(24, seed=9), "wider": normal(6, 25, seed=10),
    "bv": np.concatenate([np.zeros(16, np.float32), normal(8, seed=11)]), "bqkv": normal(24, seed=12),
    "zero": np.array([0]), "eight": np.array([8]), "sixteen": np.array([16]), "all": np.array([24]),
    "last": np.array([-1]), "by_head": np.array([0, 2, 12]), "flat": np.array([0, 8]), "four": np.array([4]),
    "twelve": np.array([12]),
}  # fmt: skip
ROTATE = "turbo_onnx.RotaryEmbedding"
PRODUCTS = "a = MatMul(x, wq) b = MatMul(x, wk) v = MatMul(x, wv) "
TURNED = f"q = {ROTATE}<num_heads = 2>(a, , cos, sin, at) k = {ROTATE}<num_heads = 2>(b, , cos, sin, at) "
ATTENTION = "y = turbo_onnx.VarlenAttention<num_heads = 2, scale = 0.5>(q, k, v, , cu)"
CUT = "a = Slice(p, zero, eight, last) b = Slice(p, eight, sixteen, last) v = Slice(p, sixteen, all, last) "
ONE = "p = MatMul(x, wide) " + CUT
BY_HEAD = """
    h = Reshape(p, by_head) a3 = Slice(h, zero, four, last) b3 = Slice(h, four, eight, last)
    v3 = Slice(h, eight, twelve, last) a = Reshape(a3, flat) b = Reshape(b3, flat) v = Reshape(v3, flat)
"""


def model(body: str, *, extra: Mapping[str, np.ndarray] | None = None, outputs: str = "float[T,8] y") -> Model:
    text = f'<ir_version: 8, opset_import: ["": 17, "turbo_onnx": 1]> g ({INPUTS}) => ({outputs}) {{ {body} }}'
    words = set("".join(letter if letter.isalnum() or letter == "_" else " " for letter in text).split())
    result = parse(text, {name: value for name, value in (WEIGHTS | dict(extra or {})).items() if name in words})
    shapes.infer(result)
    return result


def merged(target: Model) -> PassReport:
    report = apply(MergeProjections(), target)
    shapes.infer(target)
    return report


def feed() -> dict[str, np.ndarray]:
    tables = {"cos": normal(7, 4, seed=20), "sin": normal(7, 4, seed=21)}
    rows = {"x": normal(5, 6, seed=22), "at": np.array([0, 1, 0, 2, 6]), "cu": np.array([0, 2, 5], np.int32)}
    return tables | rows


def same(body: str) -> tuple[Model, gs.Node, gs.Node]:
    """The graph after the pass, which gives what it gave before; its rotation and its attention."""
    before, after = model(body), model(body)
    assert merged(after).rejected == []
    equivalent(run(before, feed()), after, feed())
    (rotation,) = (node for node in after.graph.nodes if node.op == "RotaryEmbedding")
    (attention,) = (node for node in after.graph.nodes if node.op == "VarlenAttention")
    assert attention.inputs[0] is rotation.outputs[0]
    assert attention.inputs[1].name == attention.inputs[2].name == ""
    return after, rotation, attention


def test_three_products_become_one_with_one_rotation_behind() -> None:
    after, rotation, _ = same(PRODUCTS + TURNED + ATTENTION)
    assert count(after) == {"MatMul": 1, ROTATE: 1, "turbo_onnx.VarlenAttention": 1}
    assert (rotation.attrs["num_heads"], rotation.attrs["rotated_heads"]) == (6, 4)


def test_keys_that_queries_share_are_narrower() -> None:
    body = (PRODUCTS + TURNED + ATTENTION).replace("wk", "narrow_k").replace("wv", "narrow_v")
    body = body.replace(
        "k = turbo_onnx.RotaryEmbedding<num_heads = 2>", "k = turbo_onnx.RotaryEmbedding<num_heads = 1>"
    )
    after, rotation, attention = same(body.replace("scale", "kv_num_heads = 1, scale"))
    assert count(after)["MatMul"] == 1
    assert list(attention.inputs[0].shape) == ["T", 16]
    assert (rotation.attrs["num_heads"], rotation.attrs["rotated_heads"]) == (4, 3)


def test_biases_in_front_of_the_rotation_and_of_values_become_one() -> None:
    body = PRODUCTS + TURNED.replace("(a, ,", "(a, bq,").replace("(b, ,", "(b, bk,")
    _, rotation, attention = same(body + ATTENTION.replace("v, ,", "v, bv,"))
    parts = [WEIGHTS["bq"], WEIGHTS["bk"], WEIGHTS["bv"][16:]]
    np.testing.assert_array_equal(rotation.inputs[1].values, np.concatenate(parts))
    assert attention.inputs[3].name == ""


def test_a_bias_behind_the_rotation_stays_there() -> None:
    _, rotation, attention = same(PRODUCTS + TURNED + ATTENTION.replace("v, ,", "v, bqkv,"))
    assert rotation.inputs[1].name == ""
    assert attention.inputs[3].name == "bqkv"


@pytest.mark.parametrize("bias", [False, True])
def test_parts_of_one_projection_are_rotated_in_their_row(bias: bool) -> None:
    body = ONE if not bias else "m = MatMul(x, wide) p = Add(m, ball) " + CUT
    after, rotation, _ = same(body + TURNED + ATTENTION)
    assert count(after) == {"MatMul": 1, ROTATE: 1, "turbo_onnx.VarlenAttention": 1}
    assert rotation.inputs[1].name == ("rotary_bias" if bias else "")


def test_columns_in_another_order_are_ordered_in_the_weight() -> None:
    after, rotation, _ = same("m = MatMul(x, wide) p = Add(m, ball) " + BY_HEAD + TURNED + ATTENTION)
    assert count(after) == {"MatMul": 1, ROTATE: 1, "turbo_onnx.VarlenAttention": 1}
    np.testing.assert_array_equal(rotation.inputs[1].values[:8], WEIGHTS["ball"][[0, 1, 2, 3, 12, 13, 14, 15]])


def test_what_else_reads_the_projection_keeps_it_with_its_bias() -> None:
    body = "m = MatMul(x, wide) p = Add(m, ball) also = Relu(p) " + CUT + TURNED + ATTENTION
    outputs = "float[T,8] y, float[T,24] also"
    before, after = model(body, outputs=outputs), model(body, outputs=outputs)
    merged(after)
    equivalent(run(before, feed()), after, feed())
    assert count(after) == {"MatMul": 1, "Add": 1, "Relu": 1, ROTATE: 1, "turbo_onnx.VarlenAttention": 1}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (PRODUCTS + "q = Identity(a) " + TURNED[TURNED.index("k =") :] + ATTENTION, "only one of q and k is rotated"),
        (PRODUCTS + TURNED.replace("(b, , cos, sin", "(b, , sin, cos") + ATTENTION, "different cosines, sines"),
        (PRODUCTS + TURNED.replace("2>(b", "2, interleaved = 1>(b") + ATTENTION, "in different ways"),
        (PRODUCTS + TURNED.replace("2>(b", "2, rotated_heads = 1>(b") + ATTENTION, "only some heads"),
        (PRODUCTS + TURNED + ATTENTION + " also = Relu(k)", "k is read elsewhere too"),
        (PRODUCTS + TURNED + ATTENTION + " also = MatMul(x, wk)", "wk is read elsewhere too"),
        (ONE.replace("wide", "wider") + TURNED + ATTENTION, "p has other columns, too"),
        ("p = MatMul(x, wide) also = Relu(p) " + BY_HEAD + TURNED + ATTENTION, "its weight cannot be changed"),
        ("p = MatMul(x, wide) also = MatMul(x, wide) " + BY_HEAD + TURNED + ATTENTION, "wide is read elsewhere too"),
        (PRODUCTS.replace("MatMul(x, wv)", "Relu(a)") + TURNED + ATTENTION, "not all products with a weight"),
    ],
)
def test_what_cannot_be_one_stays_apart(body: str, sentence: str) -> None:
    also = next(
        (part for part in ("Relu(p)", "Relu(k)", "MatMul(x, wk)", "MatMul(x, wide)") if f"also = {part}" in body), None
    )
    size = {"Relu(p)": 24, "MatMul(x, wide)": 24}.get(also or "", 8)
    after = model(body, outputs="float[T,8] y" + (f", float[T,{size}] also" if also else ""))
    before = count(after)
    report = merged(after)
    assert report.applied == 0
    assert sentence in sentences(report)[0]
    assert count(after) == before
