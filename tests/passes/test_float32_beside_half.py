"""ConvertPrecision: what a node takes in float32 beside half precision, such as the bias of an attention."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.passes.half_precision import W, anything, types
from tests.passes.support import apply, normal, run, sentences
from turbo_onnx import shapes
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.precision import Precision


def attention(bias: np.ndarray | None = None, queries: int | str = "S") -> Model:
    """x [B,S,4] attends to itself with two heads of 2; the bias is a constant, or an input [B,1,queries,S]."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S", 4])]
    stored = [onnx.numpy_helper.from_array(W, "w")]
    if bias is None:
        inputs.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["B", 1, queries, "S"]))
    else:
        stored.append(onnx.numpy_helper.from_array(bias, "bias"))
    operands = ["q", "x", "x", "", "", "bias"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("VarlenAttention", operands, ["y"], "attend", domain=DOMAIN, num_heads=2, scale=0.5),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "S", 4])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    made = helper.make_graph(nodes, "g", inputs, outputs, stored)
    model = Model.from_proto(helper.make_model(made, opset_imports=opsets, ir_version=8))
    shapes.infer(model)
    return model


def types_of_attention(model: Model) -> tuple[str, str]:
    """Of its result, and of its bias."""
    (node,) = (node for node in model.graph.nodes if node.op == "VarlenAttention")
    return np.dtype(node.outputs[0].dtype).name, np.dtype(node.inputs[5].dtype).name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("reaches", "fits"), [(3.4028235e38, False), (1e4, True), (0.0, True)])
def test_an_attention_bias_that_does_not_fit_stays_in_float32_by_itself(
    precision: Precision, reaches: float, fits: bool
) -> None:
    model = attention()
    report = apply(ConvertPrecision(precision, lambda *_: {"bias": reaches}), model)
    half = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert types_of_attention(model) == (half, half if fits else "float32")
    assert (report.applied, report.rejected) == (2, [])
    assert report.facts["casts"] == (3 if fits else 2)


@pytest.mark.parametrize(("value", "kind"), [(-1e9, "float32"), (-1e4, "float16"), (-np.inf, "float16")])
def test_so_does_one_that_is_constant(value: float, kind: str) -> None:
    bias = np.float32([0, value, 0] * 3).reshape(1, 1, 3, 3)
    model = attention(bias)
    apply(ConvertPrecision("fp16", anything), model)
    assert types_of_attention(model) == ("float16", kind)
    x = normal(2, 3, 4)
    np.testing.assert_allclose(run(model, {"x": x})[0], run(attention(bias), {"x": x})[0], atol=1e-2)


def test_a_bias_that_is_one_row_for_all_queries_is_not_worth_a_cast() -> None:
    model = attention(queries=1)
    report = apply(ConvertPrecision("fp16", anything), model)
    assert types_of_attention(model) == ("float16", "float32")
    assert report.facts["casts"] == 2


@pytest.mark.parametrize(("precision", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_rows_are_rotated_in_half_precision_by_cosines_and_sines_in_float32(precision: Precision, name: str) -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["rows"]),
        helper.make_node("RotaryEmbedding", ["rows", "", "cos", "sin"], ["y"], domain=DOMAIN, num_heads=2),
    ]
    inputs = [value(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("cos", 2), ("sin", 2))]
    outputs = [value("y", TensorProto.FLOAT, ["N", 4])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    made = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(W, "w")])
    model = Model.from_proto(helper.make_model(made, opset_imports=opsets, ir_version=8))
    shapes.infer(model)
    report = apply(ConvertPrecision(precision, anything), model)
    assert types(model) == {"MatMul": name, "RotaryEmbedding": name}
    (node,) = (node for node in model.graph.nodes if node.op == "RotaryEmbedding")
    assert [tensor.name for tensor in node.inputs[2:4]] == ["cos", "sin"]
    assert (report.applied, report.facts["casts"]) == (2, 2)


def test_attention_whose_other_operands_do_not_fit_stays_with_its_bias() -> None:
    model = attention()
    report = apply(ConvertPrecision("fp16", lambda *_: {"bias": 3.4e38, "x": 4e4}), model)
    assert types_of_attention(model) == ("float32", "float32")
    assert set(sentences(report)) == {"'x' reaches 4e+04, and float16 is given numbers up to 3.275e+04"}


def test_a_query_that_is_masked_as_a_whole_attends_to_all_keys_as_in_float32() -> None:
    feeds = {"x": normal(2, 3, 4), "bias": np.full((2, 1, 3, 3), np.finfo(np.float32).min)}
    model = attention()
    apply(ConvertPrecision("fp16", lambda *_: {"bias": 3.4028235e38}), model)
    (actual,) = run(model, feeds)
    np.testing.assert_allclose(actual, feeds["x"].mean(axis=1, keepdims=True).repeat(3, axis=1), atol=2e-3)
