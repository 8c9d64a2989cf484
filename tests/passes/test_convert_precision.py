"""ConvertPrecision: half precision where it keeps the result, float32 elsewhere, and a cast for each crossing."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.passes.half_precision import PRODUCT, W, converted, types
from tests.passes.support import apply, count, graph, normal, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.calibration import Samples, magnitudes
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.precision import Precision
from turbo_onnx.verify_inputs import describe

SQUARE = "float[4,4] w"


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
