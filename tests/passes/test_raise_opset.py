"""RaiseOpset: operators keep their meaning from 11 to 17, or the model stays where it is and the report says why."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.raise_opset import RaiseOpset


def model_at(opset: int, body: str) -> Model:
    return parse(graph(body, opset=opset, ir_version=7))


def raised(model: Model, inputs: dict[str, np.ndarray]) -> Model:
    """Assert that the model goes to 17 and computes the same there."""
    before = run(model, inputs)
    report = apply(RaiseOpset(), model)
    assert sentences(report) == []
    assert model.opset == 17
    assert [entry.version for entry in model.to_proto().opset_import if entry.domain == ""] == [17]
    equivalent(before, model, inputs)
    return model


X = {"x": normal(2, 3, 4)}

BODIES = {
    "Softmax, default axis": "g (float[A,B,C] x) => (float[A,B,C] y) {y = Softmax(x)}",
    "Softmax over axis 0": "g (float[A,B,C] x) => (float[A,B,C] y) {y = Softmax<axis=0>(x)}",
    "Softmax over axis -2": "g (float[A,B,C] x) => (float[A,B,C] y) {y = Softmax<axis=-2>(x)}",
    "Softmax over the last axis": "g (float[A,B,C] x) => (float[A,B,C] y) {y = Softmax<axis=2>(x)}",
    "LogSoftmax": "g (float[A,B,C] x) => (float[A,B,C] y) {y = LogSoftmax(x)}",
    "Hardmax": "g (float[A,B,C] x) => (float[A,B,C] y) {y = Hardmax(x)}",
    "Squeeze and Unsqueeze": """g (float[A,B,C] x) => (float[1,A,B,C,1] y) {
        u = Unsqueeze<axes=[0,4]>(x) v = Squeeze<axes=[4]>(u) y = Unsqueeze<axes=[-1]>(v)}""",
    "Squeeze of every axis of one": """g (float[A,B,C] x) => (float[A,B,C] y) {
        u = Unsqueeze<axes=[0]>(x) y = Squeeze(u)}""",
    "ReduceSum": "g (float[A,B,C] x) => (float[A,C] y) {y = ReduceSum<axes=[1], keepdims=0>(x)}",
    "ReduceSum of everything": "g (float[A,B,C] x) => (float y) {y = ReduceSum<keepdims=0>(x)}",
    "ReduceMean keeps its attribute": "g (float[A,B,C] x) => (float[A,B,1] y) {y = ReduceMean<axes=[-1]>(x)}",
    "Split in given parts": """g (float[A,B,4] x) => (float[A,B,1] y, float[A,B,3] z) {
        y, z = Split<axis=2, split=[1,3]>(x)}""",
    "Split in equal parts": "g (float[A,B,4] x) => (float[A,B,2] y, float[A,B,2] z) {y, z = Split<axis=2>(x)}",
    "BatchNormalization": """g (float[A,3,C] x) => (float[A,3,C] y) <float[3] s = {1,2,3}, float[3] b = {0,1,0},
        float[3] m = {0.5,0,0}, float[3] v = {1,2,1}> {y = BatchNormalization(x, s, b, m, v)}""",
    "Clip, Pow, Add, Cast, Where, Equal": """g (float[A,B,C] x) => (float[A,B,C] y)
        <float low = {-1}, float high = {1}, float two = {2}, int64 seven = {7}> {
        c = Clip(x, low, high) p = Pow(c, two) a = Add(p, x)
        i = Cast<to=7>(a) f = Cast<to=1>(i) e = Equal(i, seven) y = Where(e, f, a)}""",
    "Gather, Concat, Slice, Reshape, Expand, Shape": """g (float[A,B,4] x) => (float[A,B,4] y)
        <int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] last = {2}, int64[2] order = {1,0},
        int64[3] target = {0,-1,4}> {s = Slice(x, zero, two, last) g = Gather<axis=2>(s, order)
        h = Slice(x, two, four, last) k = Concat<axis=2>(g, h)
        sh = Shape(x) ex = Expand(k, sh) y = Reshape(ex, target)}""",
    "TopK, ArgMax, CumSum": """g (float[A,B,4] x) => (float[A,B,2] y, int64[A,1,4] z, float[A,B,4] w)
        <int64[1] k = {2}, int64 axis = {1}> {y, i = TopK(x, k) z = ArgMax<axis=1>(x) w = CumSum(x, axis)}""",
    "GatherElements, ScatterElements, NonZero": """g (float[A,B,4] x) => (float[A,B,4] y, int64[3,N] z)
        <int64[1,1,1] zero = {0}, float[1,1,1] nine = {9}> {y = ScatterElements(x, zero, nine) z = NonZero(x)}""",
    "Pad, Tile, Transpose, MatMul, Gemm": """g (float[A,B,4] x) => (float[A,B,D] y)
        <int64[6] pads = {0,0,0,0,0,1}, float[5,2] w = {1,2,3,4,5,6,7,8,9,10}, int64[3] repeats = {1,1,2}>
        {p = Pad(x, pads) m = MatMul(p, w) y = Tile(m, repeats)}""",
    "Resize": """g (float[A,B,4] x) => (float[A,B,8] y) <float[0] roi = {}, float[3] scales = {1,1,2}>
        {y = Resize<mode="nearest">(x, roi, scales)}""",
    "If with nodes of its own": """g (float[A,B,C] x) => (float[A,B,C] y) <int64 zero = {0}> {
        m = ReduceMax<keepdims=0>(x) c = Cast<to=9>(m)
        y = If (c) <then_branch = t () => (float[A,B,C] a) {a = Softmax(x)},
                    else_branch = e () => (float[A,B,C] b) {u = Unsqueeze<axes=[0]>(x) b = Squeeze<axes=[0]>(u)}>}""",
}


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("name", BODIES)
def test_operators_keep_their_meaning(name: str, opset: int) -> None:
    raised(model_at(opset, BODIES[name]), X)


def test_dropout_does_nothing_before_and_after() -> None:
    raised(model_at(11, "g (float[A,B,C] x) => (float[A,B,C] y) {y = Dropout<ratio=0.3>(x)}"), X)


@pytest.mark.parametrize("opset", [13, 14, 15, 16])
def test_later_opsets_are_raised_as_they_are(opset: int) -> None:
    body = """g (float[A,B,C] x) => (float[1,A,B,C] y) <int64[1] zero = {0}> {
        s = Softmax(x) u = Unsqueeze(s, zero) sh = Shape(u) y = Reshape(u, sh)}"""
    model = raised(model_at(opset, body), X)
    assert operators(model) == ["Softmax", "Unsqueeze", "Shape", "Reshape"]


def test_softmax_over_the_last_axis_needs_no_reshaping() -> None:
    model = raised(model_at(11, BODIES["Softmax over the last axis"]), X)
    assert operators(model) == ["Softmax"]
    assert model.graph.nodes[0].attrs["axis"] == -1


def test_softmax_over_several_axes_is_flattened() -> None:
    model = raised(model_at(11, BODIES["Softmax, default axis"]), X)
    assert count(model) == {"Flatten": 1, "Softmax": 1, "Shape": 1, "Reshape": 1}


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_models_that_have_it_stay(opset: int) -> None:
    model = parse(graph("g (float[N] x) => (float[N] y) {y = Relu(x)}", opset=opset))
    assert apply(RaiseOpset(), model).applied == 0
    assert model.opset == opset


REFUSALS = {
    "the mask of a Dropout": (
        "g (float[A] x) => (float[A] y, bool[A] m) {[drop] y, m = Dropout<ratio=0.3>(x)}",
        "the opset stays at 11: drop gives out its mask, which opset 12 defines otherwise",
    ),
    "a Resize of another time": (
        """g (float[A,B,C,D] x) => (float[A,B,E,F] y) <float[0] roi = {}, float[4] scales = {1,1,2,2}>
        {[bigger] y = Resize<mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn">(x, roi, scales)}""",
        "the opset stays at 11: bigger transforms coordinates by tf_half_pixel_for_nn, which opset 13 does not have",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_said_at_17_keeps_the_model_where_it_is(name: str) -> None:
    body, sentence = REFUSALS[name]
    model = model_at(11, body)
    before = operators(model)
    report = apply(RaiseOpset(), model)
    assert sentences(report) == [sentence]
    assert (model.opset, operators(model)) == (11, before)
