import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.custom_ops.single_node import Case, assert_equal, model
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions, spec
from turbo_onnx.custom_ops.specification import DOMAIN

BY_NAME = {entry.name: entry for entry in SPECS}
X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
BIAS = np.array([0.5, -0.5, 0.25, 1.0], np.float32)


def gelu(inputs, output, **attributes):
    return helper.make_node("BiasGelu", inputs, [output], domain=DOMAIN, **attributes)


def chain(*nodes, opset=17):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [value("x", TensorProto.FLOAT, [2, 4]), value("bias", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [2, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


@pytest.fixture
def three_forms():
    proto = chain(
        gelu(["x", "bias"], "a"), gelu(["a"], "b"), gelu(["b"], "c", approximate="tanh"), gelu(["c", "bias"], "y")
    )
    functions.attach(proto, BY_NAME)
    return proto


def expected_of_three_forms():
    rows = X
    for bias, approximate in ((BIAS, "none"), (None, "none"), (None, "tanh"), (BIAS, "none")):
        (rows,) = Case("BiasGelu", [rows, bias], {"approximate": approximate}).expected()
    return rows


def test_nodes_of_different_forms_get_names_of_their_own(three_forms):
    assert [node.op_type for node in three_forms.graph.node] == ["BiasGelu", "BiasGelu_2", "BiasGelu_3", "BiasGelu"]
    assert [function.name for function in three_forms.functions] == ["BiasGelu", "BiasGelu_2", "BiasGelu_3"]
    onnx.checker.check_model(three_forms)


@pytest.mark.parametrize("session", [ort.InferenceSession, runtime.InferenceSession])
def test_a_model_with_several_forms_runs_with_and_without_the_library(three_forms, session):
    made = session(three_forms.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_equal(made.run(None, {"x": X, "bias": BIAS}), [expected_of_three_forms()])


def test_a_model_with_several_forms_runs_in_the_reference_evaluator(three_forms):
    evaluator = ReferenceEvaluator(three_forms)
    assert_equal(evaluator.run(None, {"x": X, "bias": BIAS}), [expected_of_three_forms()])


def test_attaching_again_changes_nothing(three_forms):
    before = three_forms.SerializeToString(deterministic=True)
    functions.attach(three_forms, BY_NAME)
    assert three_forms.SerializeToString(deterministic=True) == before


def test_functions_of_other_domains_stay():
    proto = chain(gelu(["x", "bias"], "y"))
    other = helper.make_function("other", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [])
    proto.functions.append(other)
    functions.attach(proto, BY_NAME)
    assert [(function.domain, function.name) for function in proto.functions] == [
        ("other", "F"),
        (DOMAIN, "BiasGelu"),
    ]


def test_nodes_inside_subgraphs_get_their_functions_too():
    inner = helper.make_graph([gelu(["x"], "z")], "inner", [], [helper.make_value_info("z", onnx.TypeProto())])
    branch = helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)
    proto = chain(branch)
    functions.attach(proto, BY_NAME)
    assert [function.name for function in proto.functions] == ["BiasGelu"]


def test_what_cannot_be_attached_is_refused():
    with pytest.raises(KeyError, match="Unheard"):
        functions.attach(chain(helper.make_node("Unheard", ["x"], ["y"], domain=DOMAIN)), BY_NAME)
    lacking = helper.make_node("VarlenAttention", ["x"], ["y"], name="attend", domain=DOMAIN)
    with pytest.raises(ValueError, match="'attend' lacks its attribute num_heads"):
        functions.attach(chain(lacking), BY_NAME)


def test_an_alias_names_its_operator():
    assert spec("BiasGelu_3") is spec("BiasGelu")
    with pytest.raises(KeyError):
        spec("Unheard")


@pytest.mark.parametrize("name", ["SkipLayerNormalization", "BiasGelu"])
def test_definitions_cover_float16(name):
    rows, vector = X.astype(np.float16), BIAS.astype(np.float16)
    inputs = [rows, rows, vector, vector, vector] if name == "SkipLayerNormalization" else [rows, vector]
    case = Case(name, inputs)
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, case.feeds)
    (expected,) = case.expected()
    assert output.dtype == np.float16
    np.testing.assert_allclose(output.astype(np.float32), expected.astype(np.float32), rtol=4e-3, atol=4e-3)
