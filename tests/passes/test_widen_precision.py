"""WidenPrecision: float32 in place of half precision, one cast for each input and output, and no other decision."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.half_models import halved
from tests.passes.support import apply, count, graph, normal, operators, parse, run, sentences
from turbo_onnx import pipeline, shapes
from turbo_onnx.graph import Editor, widened_from
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.raise_attention import RaiseAttention
from turbo_onnx.passes.raise_gelu import RaiseGelu
from turbo_onnx.passes.remove_no_ops import RemoveNoOps
from turbo_onnx.passes.widen_precision import WidenPrecision
from turbo_onnx.precision import BFLOAT16, FLOAT16, HalfType, half_type

W = normal(4, 4).astype(np.float16)
NUMBERS = {"zero": 0, "half": 0.5, "one": 1, "two": 2, "low": -65504, "tiny": 1e-7}


def widened(
    body: str, *, opset: int = 17, weights: Mapping[str, np.ndarray] | None = None
) -> tuple[Model, Model, PassReport]:
    """A graph as it is and widened; `w` is a matrix [4, 4] in float16, and so are the numbers that are read."""
    numbers = {name: np.array(value, np.float16) for name, value in NUMBERS.items() if re.search(rf"\b{name}\b", body)}
    before, model = (parse(graph(body, opset=opset), {"w": W} | numbers | dict(weights or {})) for _ in range(2))
    shapes.infer(model)
    report = apply(WidenPrecision(), model)
    shapes.infer(model)
    pipeline.run(model, [RemoveNoOps()])
    return before, model, report


def half_nodes(model: Model) -> list[str]:
    """The nodes that give numbers in half precision."""
    return [node.op for node in model.graph.nodes if any(half_type(tensor.dtype) for tensor in node.outputs)]


def test_a_product_is_in_float32_between_casts_of_input_and_output() -> None:
    before, model, report = widened("g (float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, w) y = Relu(a) }")
    assert operators(model) == ["Cast", "MatMul", "Relu", "Cast"]
    assert half_nodes(model) == ["Cast"]
    assert report.applied == 2
    x = normal(3, 4, seed=1).astype(np.float16)
    np.testing.assert_array_equal(run(model, {"x": x})[0], run(before, {"x": x})[0])


def test_inputs_and_outputs_keep_their_names_and_types() -> None:
    _, model, _ = widened("g (float16[N,4] x, float[N,4] z) => (float16[N,4] y) { c = Cast<to = 10>(z) y = Add(x, c) }")
    proto = model.to_proto()
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*proto.graph.input, *proto.graph.output)] == [
        ("x", TensorProto.FLOAT16),
        ("z", TensorProto.FLOAT),
        ("y", TensorProto.FLOAT16),
    ]


def test_casts_around_an_island_of_float32_go() -> None:
    _, model, _ = widened(
        "g (float[N,4] x) => (float[N,4] y) { h = Cast<to = 10>(x) a = MatMul(h, w) f = Cast<to = 1>(a)"
        " s = Softmax<axis = -1>(f) b = Cast<to = 10>(s) c = MatMul(b, w) y = Cast<to = 1>(c) }"
    )
    assert operators(model) == ["MatMul", "Softmax", "MatMul"]


def test_a_tensor_that_is_read_often_is_cast_once() -> None:
    _, model, _ = widened(
        "g (float16[N,4] x) => (float16[N,4] y, float16[N,4] z)"
        " { a = MatMul(x, w) f = Cast<to = 1>(x) b = Exp(f) c = Cast<to = 10>(b) y = Mul(a, c) z = Add(y, x) }"
    )
    assert count(model)["Cast"] == 3  # of the input and of each output


def test_constants_keep_their_exact_values() -> None:
    _, model, _ = widened("g (float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, w) y = Add(a, tiny) }")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.to_proto().graph.initializer}
    assert {value.dtype.name for value in stored.values()} == {"float32"}
    np.testing.assert_array_equal(stored["w"], W.astype(np.float32))
    assert stored["tiny"] == np.float32(np.float16(1e-7))


def test_constant_expressions_are_rounded_as_in_half_precision() -> None:
    """-1e9 does not fit float16: such a mask is meant to be -inf there."""
    _, model, _ = widened(
        "g (float16[N,4] x, bool[N,4] m) => (float16[N,4] y) <float lost = {-1e9}>"
        " { h = Cast<to = 10>(lost) l = Mul(h, two) b = Where(m, zero, l) a = Add(x, b) y = Softmax<axis = -1>(a) }"
    )
    values = [onnx.numpy_helper.to_array(t) for t in model.to_proto().graph.initializer]
    assert any(np.isneginf(value).all() for value in values)


def test_large_constants_that_are_cast_are_rounded_and_not_cast_at_run_time() -> None:
    large = 1e-3 * normal(1024, 300)
    _, model, _ = widened(
        "g (float16[N,1024] x) => (float16[N,300] y) { h = Cast<to = 10>(v) y = MatMul(x, h) }", weights={"v": large}
    )
    assert operators(model) == ["Cast", "MatMul", "Cast"]
    (stored,) = model.to_proto().graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), large.astype(np.float16).astype(np.float32))


def test_a_constant_that_a_kept_node_reads_too_is_there_in_both_types() -> None:
    _, model, _ = widened(
        "g (float16[N,4] x) => (float16[N,4] y, float16[N,4] z) { a = MatMul(x, w) z = Floor(a) y = Sub(x, w0) }",
        weights={"w0": W[0]},
    )
    assert half_nodes(model).count("MatMul") == 1
    _, model, _ = widened(
        "g (float16[4,4] x) => (float16[4,4] y, float16[4,4] z) { a = Add(x, w) z = Floor(a) y = MatMul(x, w) }"
    )
    types = sorted(t.data_type for t in model.to_proto().graph.initializer)
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT16]


def test_types_in_attributes_follow() -> None:
    _, model, _ = widened(
        "g (float16[N,4] x, int64[1] n) => (float16[N,4] y)"
        " { c = ConstantOfShape<value = float16[1] {3}>(n) a = Add(x, c)"
        " y = LayerNormalization<axis = -1, stash_type = 10>(a, s) }",
        weights={"s": W[0]},
    )
    (filled,) = (node for node in model.graph.nodes if node.op == "ConstantOfShape")
    assert filled.attrs["value"].values.dtype == np.float32
    (normalization,) = (node for node in model.graph.nodes if node.op == "LayerNormalization")
    assert normalization.attrs["stash_type"] == TensorProto.FLOAT


def test_a_cast_like_where_nothing_is_widened_can_be_written() -> None:
    _, model, report = widened(
        "g (float16[N,4] x, float[4] k) => (float[N,4] y) { c = CastLike(x, k) y = Add(c, k) }", opset=19
    )
    assert report.applied
    assert [node.op_type for node in model.to_proto().graph.node] == ["Cast", "Add"]


def test_cast_like_becomes_a_cast() -> None:
    _, model, _ = widened("g (int64[N,4] n, float16[N,4] x) => (float16[N,4] y) { c = CastLike(n, x) y = Mul(c, x) }")
    assert "CastLike" not in operators(model)
    assert half_nodes(model) == ["Cast"]


def test_a_graph_without_half_precision_stays_as_it_is() -> None:
    _, model, report = widened("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", weights={})
    assert (report.applied, operators(model), report.facts) == (0, ["Relu"], {})


@pytest.mark.parametrize("half", [FLOAT16, BFLOAT16], ids=lambda half: half.name)
def test_bfloat16_is_widened_likewise(half: HalfType) -> None:
    body = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, v) y = Relu(a) }"
    proto = halved(parse(graph(body), {"v": normal(4, 4)}).to_proto(), half=half)
    model = Model.from_proto(proto)
    shapes.infer(model)
    assert WidenPrecision().run(model).applied == 2
    assert half_nodes(model) == ["Cast"]
    (weight,) = model.to_proto().graph.initializer
    expected = normal(4, 4).astype(ml_dtypes.bfloat16 if half is BFLOAT16 else np.float16).astype(np.float32)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), expected)


def test_operators_of_the_runtimes_own_are_widened() -> None:
    nodes = [
        helper.make_node("FastGelu", ["x"], ["a"], domain="com.microsoft"),
        helper.make_node("SkipLayerNormalization", ["a", "x", "g"], ["y"], domain="com.microsoft"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 3, 4]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(W[0], "g")
    proto = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = Model.from_proto(helper.make_model(proto, opset_imports=imports, ir_version=8))
    shapes.infer(model)
    report = WidenPrecision().run(model)
    assert (report.applied, sentences(report)) == (2, [])
    assert half_nodes(model) == ["Cast"]
    x = normal(2, 3, 4).astype(np.float16)
    assert run(model.to_proto(), {"x": x})[0].dtype == np.float16


# -- what is raised afterwards ----------------------------------------------------------------------------------------


GELU = "{ s = Div(x, root) e = Erf(s) o = Add(e, one) p = Mul(x, o) y = Mul(p, half) }"


@pytest.mark.parametrize(("root", "raised"), [(1.4140625, True), (1.4150390625, False)])
def test_a_number_that_was_rounded_to_half_precision_is_recognised_and_no_other(root: float, raised: bool) -> None:
    body = f"g (float16[N,4] x) => (float16[N,4] y) {GELU}"
    _, model, _ = widened(body, weights={"root": np.array(root, np.float16)})
    assert RaiseGelu().run(model).applied == raised


def test_a_float32_model_with_the_rounded_number_is_not_taken_for_one() -> None:
    body = "g (float[N,4] x) => (float[N,4] y) <float root = {1.4140625}, float one = {1}, float half = {0.5}>"
    model = parse(graph(body + GELU))
    assert RaiseGelu().run(model).applied == 0
    assert all(widened_from(tensor) is None for node in model.graph.nodes for tensor in node.inputs)


FILLED = (
    "g (float16[B,2,S,4] q, float16[B,2,4,S] k, float16[B,2,S,4] v, bool[B,1,1,S] m) => (float16[B,2,S,4] y)"
    " { s = MatMul(q, k) f = Where(m, s, fill) p = Softmax<axis = -1>(f) y = MatMul(p, v) }"
)


def test_scores_replaced_by_the_lowest_number_are_attention() -> None:
    _, model, _ = widened(FILLED, weights={"fill": np.array(-65504, np.float16)})
    report = RaiseAttention().run(model)
    assert (report.applied, sentences(report)) == (1, [])


@pytest.mark.parametrize("masks", ["g = Where(m, s, low) f = Where(n, g, low)", "g = Where(m, s, low) f = Add(g, b)"])
def test_two_masks_go_on_hiding_alike(masks: str) -> None:
    """A row without anything visible is an average over what both leave alike, and no mask goes before the other."""
    before, model, _ = widened(
        "g (float16[B,S,4] q, float16[B,4,S] k, float16[B,S,4] v, bool[B,S,S] m, bool[B,S,S] n) => (float16[B,S,4] y)"
        f" {{ s = MatMul(q, k) b = Where(n, zero, low) {masks} p = Softmax<axis = -1>(f) y = MatMul(p, v) }}"
    )
    random = np.random.default_rng(5)
    q, v = (random.standard_normal((2, 4, 4)).astype(np.float16) for _ in range(2))
    m = random.random((2, 4, 4)) < 0.5
    feed = {"q": q, "k": np.ascontiguousarray(q.transpose(0, 2, 1)), "v": v, "m": m, "n": ~m}
    np.testing.assert_allclose(run(model, feed)[0], run(before, feed)[0], rtol=1e-2, atol=1e-2)


def test_scores_replaced_by_another_number_are_not() -> None:
    _, model, _ = widened(FILLED, weights={"fill": np.array(-10000, np.float16)})
    assert sentences(RaiseAttention().run(model)) == [
        "masked float32 scores are replaced by -10000.0, which visible scores may be near"
    ]


def test_the_lowest_number_stays_what_it_is_where_it_can_be_seen() -> None:
    body = "g (float16[N,4] x, bool[N,4] m) => (float16[N,4] y) { a = Neg(x) y = Where(m, a, low) }"
    _, model, _ = widened(body)
    x = np.ones((1, 4), np.float16)
    assert run(model, {"x": x, "m": np.zeros((1, 4), bool)})[0].tolist() == [[-65504.0] * 4]


# -- subgraphs --------------------------------------------------------------------------------------------------------


def test_a_node_with_graphs_in_half_precision_stays_with_what_leads_to_it() -> None:
    before, model, report = widened(
        "g (bool c, float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, w)"
        " b = If (c) <then_branch = t () => (float16[N,4] r) { r = Neg(a) },"
        " else_branch = e () => (float16[N,4] s) { s = Abs(a) }> d = Exp(b) y = Mul(d, x) }"
    )
    assert half_nodes(model) == ["MatMul", "If", "Cast"]
    assert sentences(report) == [
        "it holds graphs that compute in float16: it stays as it is, with 1 node leading to it"
    ]
    x = normal(3, 4, seed=2).astype(np.float16)
    for condition in (True, False):
        feed = {"c": np.array(condition), "x": x}
        np.testing.assert_allclose(run(model, feed)[0], run(before, feed)[0], rtol=2e-3)


def test_the_pass_leaves_the_same_bytes_every_time() -> None:
    body = "g (float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, w) b = Floor(a) y = Add(b, x) }"
    first, second = (widened(body)[1].to_proto().SerializeToString() for _ in range(2))
    assert first == second


def test_the_marks_of_constants_are_kept_apart_from_others() -> None:
    edit = Editor(parse(graph("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")).graph)
    assert widened_from(edit.constant(np.ones(1, np.float32))) is None
