"""The function bodies that make a model run without our library: one for each form, under a name of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from tests.custom_ops.single_node import Case, assert_equal, by_definition
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions, spec
from turbo_onnx.custom_ops.specification import DOMAIN

BY_NAME = {spec.name: spec for spec in SPECS}


def gelus(*nodes: onnx.NodeProto, opset: int = 17) -> onnx.ModelProto:
    """A model of BiasGelu nodes that each read `x`, with the functions attached."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in SHAPES.items()]
    results = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, ["N", 4]) for node in nodes]
    graph = helper.make_graph(nodes, "graph", values, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    functions.attach(model, BY_NAME)
    return model


SHAPES: dict[str, list[str | int]] = {"x": ["N", 4], "bias": [4]}


def gelu(output: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("BiasGelu", inputs, [output], domain=DOMAIN, **attributes)


def test_nodes_of_one_form_share_one_function() -> None:
    model = gelus(gelu("a", ["x", "bias"]), gelu("b", ["x", "bias"], approximate="none"))
    assert [function.name for function in model.functions] == ["BiasGelu"]
    assert {node.op_type for node in model.graph.node} == {"BiasGelu"}


def test_every_further_form_has_the_next_name() -> None:
    model = gelus(gelu("a", ["x", "bias"]), gelu("b", ["x"]), gelu("c", ["x", "bias"]), gelu("d", ["x"]))
    assert [node.op_type for node in model.graph.node] == ["BiasGelu", "BiasGelu_2", "BiasGelu", "BiasGelu_2"]
    assert [function.name for function in model.functions] == ["BiasGelu", "BiasGelu_2"]


def test_attaching_again_changes_nothing() -> None:
    model = gelus(gelu("a", ["x", "bias"]), gelu("b", ["x"]))
    before = model.SerializeToString(deterministic=True)
    functions.attach(model, BY_NAME)
    assert model.SerializeToString(deterministic=True) == before


def test_the_model_declares_what_functions_need() -> None:
    model = gelus(gelu("a", ["x"]))
    assert model.ir_version == functions.FUNCTIONS_IR_VERSION
    assert DOMAIN in {imported.domain for imported in model.opset_import}
    onnx.checker.check_model(model)


@pytest.mark.parametrize("opset", [11, 17, 20])
def test_an_input_left_empty_at_the_end_is_absent(opset: int) -> None:
    model = gelus(gelu("a", ["x", ""]), gelu("b", ["x"]), opset=opset)
    assert {node.op_type for node in model.graph.node} == {"BiasGelu"}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = session.run(None, {"x": np.ones((2, 4), np.float32), "bias": np.ones(4, np.float32)})
    np.testing.assert_array_equal(first, second)


def test_nodes_inside_branches_have_functions_too() -> None:
    def branch(output: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", 4])
        return helper.make_graph([gelu(output, ["x"])], output, [], [value])

    node = helper.make_node("If", ["which"], ["y"], then_branch=branch("p"), else_branch=branch("q"))
    inputs = [
        helper.make_tensor_value_info("which", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4]),
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([node], "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    functions.attach(model, BY_NAME)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"which": np.array(True), "x": np.zeros((2, 4), np.float32)})
    assert not result.any()


def test_forms_beyond_the_names_of_the_library_run_by_their_functions() -> None:
    model = gelus(gelu("a", ["x", "bias"]), gelu("b", ["x"]), gelu("c", ["x"], approximate="tanh"))
    assert [function.name for function in model.functions] == ["BiasGelu", "BiasGelu_2", "BiasGelu_3"]
    assert spec("BiasGelu").forms == 2
    x = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    found = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x, "bias": np.zeros(4, np.float32)})
    by_tanh = Case("BiasGelu", [x], {"approximate": "tanh"})
    assert_equal([found[2]], by_tanh.expected())
    assert_equal([found[1]], by_definition(Case("BiasGelu", [x])))


def test_refuses_a_node_without_a_required_attribute() -> None:
    with pytest.raises(ValueError, match="'lonely' lacks its attribute num_heads"):
        gelus(helper.make_node("VarlenAttention", ["x"], ["y"], name="lonely", domain=DOMAIN, scale=1.0))


@pytest.mark.parametrize(("op_type", "name"), [("X", "X"), ("X_2", "X"), ("X_Y", "X_Y"), ("X_", "X_")])
def test_a_node_type_names_its_operator(op_type: str, name: str) -> None:
    assert functions.operator_name(op_type) == name
