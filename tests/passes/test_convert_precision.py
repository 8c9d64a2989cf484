"""ConvertPrecision: half precision where it keeps the result, float32 elsewhere, and a cast for each crossing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.passes.support import apply, count, graph, normal, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.calibration import Samples, magnitudes
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.passes.precision_plan import unfit
from turbo_onnx.precision import BFLOAT16, FLOAT16, Precision
from turbo_onnx.verify_inputs import describe

W = normal(4, 4)
SQUARE = "float[4,4] w"


def anything(model: Model, tensors: Sequence[object]) -> Mapping[str, float]:
    """A measurement that finds nothing large."""
    return {}


def converted(
    body: str,
    precision: Precision = "fp16",
    *,
    opset: int = 17,
    weights: Mapping[str, np.ndarray] | None = None,
    measured: Mapping[str, float] | None = None,
) -> tuple[Model, PassReport]:
    """What becomes of a graph; `w` is a matrix [4, 4]."""
    model = parse(graph(body, opset=opset), {"w": W} | dict(weights or {}))
    shapes.infer(model)
    report = apply(ConvertPrecision(precision, lambda *_: measured or {}), model)
    return model, report


def types(model: Model) -> dict[str, str]:
    """The type of the first result of each node, by operator."""
    return {node.op: np.dtype(node.outputs[0].dtype).name for node in model.graph.nodes if node.op != "Cast"}


PRODUCT = "g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }"


@pytest.mark.parametrize(("precision", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_a_product_computes_in_half_precision_between_casts(precision: Precision, name: str) -> None:
    model, report = converted(PRODUCT, precision)
    assert count(model) == {"Cast": 2, "MatMul": 1}
    assert types(model) == {"MatMul": name}
    assert report.applied == 1
    assert report.facts == {"precision": precision, "half_precision_nodes": 1, "float32_nodes": 0, "casts": 2}


def test_inputs_and_outputs_keep_their_types_names_and_numbers() -> None:
    model, _ = converted(PRODUCT)
    proto = model.to_proto()
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*proto.graph.input, *proto.graph.output)] == [
        ("x", TensorProto.FLOAT),
        ("y", TensorProto.FLOAT),
    ]
    x = normal(3, 4, seed=1)
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ W, atol=2e-2)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_weights_are_rounded_once_and_stored_in_half_the_bytes(precision: Precision, dtype: type) -> None:
    model, _ = converted(PRODUCT, precision)
    (weight,) = model.to_proto().graph.initializer
    assert len(weight.raw_data) == W.nbytes // 2
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight).view(np.uint16), W.astype(dtype).view(np.uint16))


def test_a_weight_that_both_sides_read_is_stored_for_both() -> None:
    model, _ = converted("g (float[N,4] x) => (float[N,4] y, float[4,4] z) { y = MatMul(x, w) z = Exp(w) }")
    stored = {tensor.name: tensor.data_type for tensor in model.to_proto().graph.initializer}
    assert stored == {"w": TensorProto.FLOAT, "w_fp16": TensorProto.FLOAT16}


def test_neighbours_have_no_cast_between_them() -> None:
    _, report = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) c = Transpose<perm = [0, 1]>(b) "
        "y = MatMul(c, w) }"
    )
    assert (report.applied, report.facts["casts"]) == (4, 2)


def test_a_tensor_is_cast_once_for_all_its_readers() -> None:
    model, _ = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Exp(a) c = Sqrt(a) d = Add(b, a) e = Mul(b, c) "
        "f = Add(d, e) y = MatMul(f, w) }"
    )
    cast = [node.inputs[0].name for node in model.graph.nodes if node.op == "Cast"]
    assert cast == ["x", "a_fp16", "b", "c", "y_fp16"]


def test_an_output_that_is_read_further_down_keeps_its_name_and_the_reader_its_type() -> None:
    model, _ = converted("g (float[N,4] x) => (float[N,4] a, float[N,4] y) { a = MatMul(x, w) y = MatMul(a, w) }")
    assert count(model) == {"Cast": 3, "MatMul": 2}
    second = [node for node in model.graph.nodes if node.op == "MatMul"][1]
    assert second.inputs[0].inputs[0].op == "MatMul"
    assert [tensor.name for tensor in model.graph.outputs] == ["a", "y"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("b = Softmax(a)", "Softmax stays in float32: it computes exponentials"),
        ("b = LogSoftmax(a)", "LogSoftmax stays in float32: it computes exponentials"),
        ("b = Exp(a)", "Exp stays in float32: it computes exponentials"),
        ("b = ReduceMean<axes = [1]>(a)", "ReduceMean stays in float32: it sums up many numbers"),
        ("b = ReduceL2<axes = [1]>(a)", "ReduceL2 stays in float32: it sums up many numbers"),
        ("b = Sqrt(a)", "Sqrt stays in float32: it stretches the range of its numbers"),
        ("b = Pow(a, a)", "Pow stays in float32: it stretches the range of its numbers"),
        ("b = Softplus(a)", "Softplus stays in float32: it may be worse in half precision"),
        ("b = Div(a, a)", "it divides by a computed number, which may be too small for half precision"),
        (
            "b = LayerNormalization<axis = -1, stash_type = 16>(a, v)",
            "it asks for its statistics in another type than float32",
        ),
    ],
)
def test_what_half_precision_would_spoil_stays_and_is_named(line: str, why: str) -> None:
    result = "float[N,1]" if "Reduce" in line else "float[N,4]"
    model, report = converted(
        f"g (float[N,4] x) => ({result} b) <float[4] v = {{1, 1, 1, 1}}> {{ a = MatMul(x, w) {line} }}"
    )
    assert types(model)[line.split()[2].partition("(")[0].partition("<")[0]] == "float32"
    assert types(model)["MatMul"] == "float16"
    assert [rejection.node for rejection in report.rejected] == [model.graph.nodes[-1].name]
    assert sentences(report) == [why]


@pytest.mark.parametrize(
    "line",
    [
        "b = Add(a, x)",
        "b = Sub(a, x)",
        "b = Mul(a, x)",
        "b = Div(a, eight)",
        "b = Neg(a)",
        "b = Relu(a)",
        "b = Tanh(a)",
        "b = Sigmoid(a)",
        "b = Where(flag, a, x)",
        "b = Clip(a, nought, eight)",
        "b = LayerNormalization(a, v)",
        "b = Reshape(a, sizes)",
        "b = Concat<axis = 0>(a, a)",
        "b = Expand(a, sizes)",
    ],
)
def test_what_rounds_once_goes_along(line: str) -> None:
    model, report = converted(
        "g (float[4,4] x, bool flag) => (float[C,D] y) <float eight = {8}, float nought = {0}, "
        f"float[4] v = {{1, 1, 1, 1}}, int64[2] sizes = {{4, 4}}> {{ a = MatMul(x, w) {line} c = Identity(b) "
        "y = MatMul(c, w) }"
    )
    assert report.rejected == []
    assert set(types(model).values()) == {"float16"}


def test_what_is_alone_stays_in_float32() -> None:
    model, report = converted("g (float[N,4] x) => (float[N,4] y) { a = Add(x, x) y = Relu(a) }")
    assert (report.applied, count(model)) == (0, {"Add": 1, "Relu": 1})
    assert set(sentences(report)) == {"nothing next to it computes in half precision"}


# -- constants --------------------------------------------------------------------------------------------------------

MASKED = """g (float[N,4] x, bool[N,4] mask) => (float[N,4] y)
    <float low = {LOW}> {{ a = MatMul(x, w) b = Where(mask, a, low) y = Softmax(b) }}"""


@pytest.mark.parametrize(
    ("low", "stays"), [("-3.4028235e38", True), ("-1e9", True), ("-65504", False), ("-inf", False)]
)
def test_a_mask_that_would_become_infinite_stays(low: str, stays: bool) -> None:
    body = MASKED.replace("{{", "{").replace("}}", "}").replace("{LOW}", "{1}")
    model = parse(graph(body), {"w": W})
    model.graph.nodes[1].inputs[2].values = np.array(low, np.float32)
    shapes.infer(model)
    report = apply(ConvertPrecision("fp16", anything), model)
    assert types(model)["Where"] == ("float32" if stays else "float16")
    if stays:
        assert f"'low' holds {float(np.float32(low)):.4g}, and float16 ends at 6.55e+04" in sentences(report)


def test_a_weight_out_of_range_keeps_its_layer_in_float32() -> None:
    large = W.copy()
    large[1, 2] = 7e4
    model, report = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = MatMul(a, large) }", weights={"large": large}
    )
    assert [np.dtype(node.outputs[0].dtype).name for node in model.graph.nodes if node.op == "MatMul"] == [
        "float16",
        "float32",
    ]
    assert sentences(report) == ["'large' holds 7e+04, and float16 ends at 6.55e+04"]


def test_an_epsilon_that_would_become_zero_stays() -> None:
    model, report = converted(
        "g (float[N,4] x) => (float[N,4] y) <float epsilon = {1e-12}> { a = MatMul(x, w) y = Add(a, epsilon) }"
    )
    assert types(model) == {"MatMul": "float16", "Add": "float32"}
    assert sentences(report) == ["'epsilon' is 1e-12, which would become 0 in float16"]


def test_what_underflow_takes_from_a_constant_decides() -> None:
    some = normal(64, 64)
    assert unfit(some, FLOAT16) is None
    some[:32] *= 1e-7  # half of the numbers, but nothing of the weight
    assert unfit(some, FLOAT16) is None
    assert "would lose 0.0" in str(unfit(normal(64, 64) * np.float32(1e-6), FLOAT16))
    assert unfit(normal(64, 64) * np.float32(1e-6), BFLOAT16) is None
    assert unfit(np.float32([1e-30, 0]), BFLOAT16) is None


@pytest.mark.parametrize("value", [0.0, 1.0, 65504.0, -np.inf, np.nan, 0.1, 6.2e-5])
def test_numbers_that_half_precision_has_are_fit(value: float) -> None:
    assert unfit(np.float32(value), FLOAT16) is None


@pytest.mark.parametrize("value", [65505.0, -1e9, 1e-5, 1e-30, -3e-45])
def test_numbers_that_it_does_not_have_are_not(value: float) -> None:
    assert unfit(np.float32(value), FLOAT16) is not None


def test_the_lowest_float32_does_not_fit_bfloat16() -> None:
    assert unfit(np.array([0, np.finfo(np.float32).min]), BFLOAT16) == "holds -3.403e+38, and bfloat16 ends at 3.39e+38"


def test_no_weights_at_all_are_fit() -> None:
    assert unfit(np.zeros((0, 4), np.float32), FLOAT16) is None


# -- what a node takes in float32 beside half precision ---------------------------------------------------------------


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


# -- what is measured -------------------------------------------------------------------------------------------------

DEEP = """g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, large) b = Relu(a) c = MatMul(b, small) d = MatMul(c, w)
    y = Tanh(d) }"""


def deep(precision: Precision) -> tuple[Model, PassReport]:
    model = parse(graph(DEEP), {"w": W, "large": np.full((4, 4), 2e4, np.float32), "small": W * np.float32(1e-3)})
    shapes.infer(model)
    samples = Samples(describe(model), {"ones": {"x": np.ones((2, 4), np.float32)}})
    return model, apply(ConvertPrecision(precision, partial(magnitudes, samples=samples)), model)


def test_layers_that_overflow_stay_in_float32_and_are_named_with_the_number() -> None:
    model, report = deep("fp16")
    kept = [node.op for node in model.graph.nodes if node.op != "Cast" and node.outputs[0].dtype == np.float32]
    assert kept == ["MatMul", "Relu", "MatMul"]
    assert len(report.rejected) == 3
    assert all("reaches" in sentence and "up to 3.275e+04" in sentence for sentence in sentences(report))
    (y,) = run(model, {"x": np.ones((2, 4), np.float32)})
    assert np.isfinite(y).all()


def test_bfloat16_has_the_range_for_them() -> None:
    _, report = deep("bf16")
    assert (report.applied, report.rejected) == (5, [])


def test_a_sum_of_two_tensors_in_range_is_in_range() -> None:
    _, report = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b) }",
        measured={"a": 32752.0, "b": 32752.0},
    )
    assert report.applied == 3
    _, report = converted(PRODUCT, measured={"x": 32753.0})
    assert sentences(report) == ["'x' reaches 3.275e+04, and float16 is given numbers up to 3.275e+04"]


# -- integers ---------------------------------------------------------------------------------------------------------


def test_numbers_made_of_integers_stay_exact() -> None:
    model, report = converted(
        """g (float[N,4] x, int64[N,1] position) => (float[N,4] y) <float[1,4] rates = {1, 0.1, 0.01, 0.001}>
        { p = Cast<to = 1>(position) angle = MatMul(p, rates) c = Cos(angle) a = MatMul(x, w) y = Mul(a, c) }"""
    )
    found = [np.dtype(node.outputs[0].dtype).name for node in model.graph.nodes if node.op == "MatMul"]
    assert sorted(found) == ["float16", "float32"]
    assert types(model) | {"MatMul": ""} == {"MatMul": "", "Cos": "float32", "Mul": "float16"}
    assert "it computes with numbers made of integers, which float16 holds up to 2048 only" in sentences(report)


def test_a_mask_is_cast_from_its_integers_at_once() -> None:
    model, _ = converted(
        """g (float[N,4] x, int64[N,1] mask) => (float[N,4] y)
        { m = Cast<to = 1>(mask) a = MatMul(x, w) y = Mul(a, m) }"""
    )
    (node,) = (node for node in model.graph.nodes if node.op == "Mul")
    assert node.inputs[1].inputs[0].inputs[0].name == "mask"
    assert count(model)["Cast"] == 3


def test_numbers_cast_from_another_floating_point_type_are_none_of_integers() -> None:
    model, report = converted("g (double[N,4] x) => (float[N,4] y) { a = Cast<to = 1>(x) b = Neg(a) y = MatMul(b, w) }")
    assert types(model) == {"Neg": "float16", "MatMul": "float16"}
    assert report.rejected == []


# -- readers of other kinds -------------------------------------------------------------------------------------------


def test_a_size_is_asked_of_the_tensor_as_it_is() -> None:
    model, report = converted("g (float[N,4] x) => (float[N,4] y, int64[2] s) { y = MatMul(x, w) s = Shape(y) }")
    (node,) = (node for node in model.graph.nodes if node.op == "Shape")
    assert node.inputs[0].inputs[0].op == "MatMul"
    assert report.facts["casts"] == 2


def test_branches_read_in_float32() -> None:
    model, _ = converted(
        "g (float[N,4] x, bool flag) => (float[N,4] y) { a = MatMul(x, w) "
        "y = If(flag)<then_branch = t () => (float[N,4] b) { b = Exp(a) }, "
        "else_branch = e () => (float[N,4] c) { c = Neg(a) }> }"
    )
    x = normal(3, 4, seed=1)
    np.testing.assert_allclose(run(model, {"x": x, "flag": np.array(False)})[0], -(x @ W), atol=2e-2)


def test_what_is_in_half_precision_already_stays_and_is_read_without_casts() -> None:
    model, report = converted(
        "g (float[N,4] x) => (float[N,4] y) { a = Cast<to = 10>(x) b = Relu(a) c = Cast<to = 1>(b) y = MatMul(c, w) }"
    )
    assert (report.applied, count(model)["Cast"]) == (1, 2)
    assert types(model) == {"Relu": "float16", "MatMul": "float16"}


def test_inputs_and_outputs_in_half_precision_are_read_and_given_without_casts() -> None:
    model, _ = converted(
        "g (float16[N,4] x) => (float16[N,4] y) { a = Cast<to = 1>(x) b = MatMul(a, w) y = Cast<to = 10>(b) }"
    )
    assert count(model) == {"MatMul": 1}


def test_a_model_goes_back_to_its_own_type_up_to_the_largest_number() -> None:
    measured = {"y": 65504.0}
    for own, chosen in (("fp32", 0), ("fp16", 1)):
        model = parse(graph(PRODUCT), {"w": W})
        shapes.infer(model)
        report = ConvertPrecision("fp16", lambda *_: measured, own).run(model)  # type: ignore[arg-type]
        assert report.applied == chosen


def test_what_makes_more_of_few_elements_is_read_behind_the_cast() -> None:
    model, _ = converted(
        "g (float[1,4] x) => (float[8,4] y) <int64[2] sizes = {8, 4}> { a = MatMul(x, w) y = Expand(a, sizes) }"
    )
    assert [node.op for node in model.graph.nodes] == ["Cast", "MatMul", "Cast", "Expand"]


# -- what schemas and runtimes have -----------------------------------------------------------------------------------


def test_what_the_opset_does_not_allow_stays() -> None:
    _, report = converted("g (float[4,4] x) => (float[4,4] y) { y = MatMul(x, w) }", "bf16", opset=12, weights={"w": W})
    assert report.applied == 0
    assert "at opset 12" in sentences(report)[0]


def test_what_has_no_kernel_in_bfloat16_stays() -> None:
    model, report = converted(
        "g (float[N,4] x, bool[N,4] m) => (float[N,4] y) { a = MatMul(x, w) b = Where(m, a, x) y = MatMul(b, w) }",
        "bf16",
    )
    assert types(model) == {"MatMul": "bfloat16", "Where": "float32"}
    assert "no kernel for Where in bfloat16" in sentences(report)[0]


def test_float32_asks_for_nothing() -> None:
    model = parse(graph(PRODUCT), {"w": W})
    assert apply(ConvertPrecision(), model).applied == 0
    assert count(model) == {"MatMul": 1}


def test_two_runs_give_the_same_bytes() -> None:
    first, second = (converted(PRODUCT)[0].to_proto().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_angles_of_far_positions_and_what_is_made_of_them_stay_exact(precision: Precision) -> None:
    body = f"""
        g (float[N,4] x, int64[N] at) => (float[N,4] y) {{
            m = MatMul(x, w) p = Cast<to = 1>(at) column = Unsqueeze(p, last) angles = Mul(column, speeds)
            cos = Cos(angles) sin = Sin(angles)
            r = {DOMAIN}.RotaryEmbedding<num_heads = 1>(m, , cos, sin) y = MatMul(r, w)
        }}
    """
    weights = {"w": W, "speeds": np.array([1.0, 0.1, 1.0, 0.1], np.float32), "last": np.array([-1])}
    text = graph(body).replace('"": 17', f'"": 17, "{DOMAIN}": 1')
    before, after = (parse(text, weights) for _ in range(2))
    shapes.infer(after)
    apply(ConvertPrecision(precision, lambda *_: {}), after)
    (node,) = (node for node in after.graph.nodes if node.op == "RotaryEmbedding")
    assert [np.dtype(tensor.dtype).name for tensor in node.inputs if tensor.name][1:] == ["float32", "float32"]
    assert np.dtype(node.outputs[0].dtype).name == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert types(after)["Mul"] == types(after)["Cos"] == "float32"
    if precision == "fp16":  # the CPU has no products in bfloat16
        feed = {"x": normal(3, 4, seed=4), "at": np.array([1, 4099, 8191])}
        (expected,), (actual,) = (run(each, feed) for each in (before, after))
        np.testing.assert_allclose(actual, expected, atol=4e-3 * np.abs(expected).max())
