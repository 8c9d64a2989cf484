"""FuseNormalization: what has no residual in front becomes our operator too, and what it has no kernel for stays."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.passes.support import apply, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes.fuse_normalization import FuseNormalization
from turbo_onnx.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from turbo_onnx.passes.limit_forms import LimitForms
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization

CONSTANTS = (
    "float[4] gamma = {1, 2, -1, 0.5}, float[4] beta = {0.1, 0.2, 0.3, 0.4}, float two = {2}, float eps = {0.25}"
)
CHAIN = "p = Pow(x, two) m = ReduceMean<axes=[-1]>(p) e = Add(m, eps) s = Sqrt(e) n = Div(x, s) y = Mul(n, gamma)"


def model_of(nodes: str, *, element: str = "float", width: str = "4", opset: int = 17) -> Model:
    text = f"g ({element}[B,S,{width}] x) => ({element}[B,S,{width}] y) <{CONSTANTS}> {{{nodes}}}"
    return parse(graph(text, opset=opset, ir_version=8 if opset < 23 else 11))


@pytest.mark.parametrize(
    ("nodes", "opset", "rms", "operands"),
    [
        (CHAIN, 17, 1, 3),
        ("y = RMSNormalization<axis=2>(x, gamma)", 23, 1, 3),
        ("y = LayerNormalization<axis=2>(x, gamma, beta)", 17, 0, 4),
        ("y = LayerNormalization(x, gamma)", 17, 0, 3),
    ],
)
def test_a_normalization_by_itself_has_no_skip(nodes: str, opset: int, rms: int, operands: int) -> None:
    model = model_of(nodes, opset=opset)
    x = normal(2, 3, 4)
    before = run(model, {"x": x})
    RaiseRmsNormalization().run(model)
    assert apply(FuseNormalization(), model).applied == 1
    assert operators(model) == ["turbo_onnx.SkipLayerNormalization"]
    (node,) = model.graph.nodes
    assert node.attrs["rms"] == rms
    assert [tensor.name == "" for tensor in node.inputs] == [False, True, *[False] * (operands - 2)]
    equivalent(before, model, {"x": x})


def test_an_unknown_width_is_refused() -> None:
    model = model_of("y = LayerNormalization(x, gamma)", width="H")
    report = apply(FuseNormalization(), model)
    assert report.applied == 0
    assert sentences(report) == ["the length of the last axis of x is not known"]


def test_double_is_refused() -> None:
    text = "g (double[B,4] x) => (double[B,4] y) <double[4] gamma = {1, 2, -1, 0.5}> {y = LayerNormalization(x, gamma)}"
    report = apply(FuseNormalization(), parse(graph(text)))
    assert sentences(report) == ["x is float64, and there is a kernel for float32 only"]


def test_a_computed_scale_stays() -> None:
    text = "g (float[B,4] x, float[4] gamma) => (float[B,4] y) {y = LayerNormalization(x, gamma)}"
    assert apply(FuseNormalization(), parse(graph(text))).applied == 0


def test_two_axes_at_once_stay() -> None:
    text = (
        "g (float[B,2,4] x) => (float[B,2,4] y) <float[2,4] gamma = {1,2,3,4,5,6,7,8}> "
        "{y = LayerNormalization<axis=1>(x, gamma)}"
    )
    assert apply(FuseNormalization(), parse(graph(text))).applied == 0


def test_statistics_that_are_read_keep_the_normalization() -> None:
    text = (
        "g (float[B,4] x) => (float[B,4] y, float[B,1] mean) <float[4] gamma = {1, 2, -1, 0.5}> "
        "{y, mean = LayerNormalization(x, gamma)}"
    )
    model = parse(graph(text))
    assert apply(FuseNormalization(), model).applied == 0
    assert np.isfinite(run(model, {"x": normal(2, 4)})[1]).all()


def test_one_model_may_have_every_form_that_fusions_make() -> None:
    nodes, results = [], []
    for number, (rms, skip, beta, bias, again) in enumerate(product([0, 1], repeat=5)):
        if (rms and beta) or (not skip and (bias or again)):
            continue
        source = "x"
        if skip:
            nodes.append(f"b{number} = Add(x, beta) t{number} = Add({f'b{number}' if bias else 'x'}, skip)")
            source = f"t{number}"
        kind = "RMSNormalization" if rms else "LayerNormalization"
        nodes.append(f"n{number} = {kind}({source}, gamma{', beta' if beta else ''})")
        results += [f"n{number}", *([source] if again else [])]
    body = f"{' '.join(nodes)} y = Sum({', '.join(results)})"
    text = f"g (float[B,4] x, float[B,4] skip) => (float[B,4] y) <{CONSTANTS}> {{{body}}}"
    model = parse(graph(text, opset=23, ir_version=11))
    data = {"x": normal(3, 4), "skip": normal(3, 4, seed=1)}
    before = run(model, data)
    FuseSkipLayerNormalization().run(model)
    FuseNormalization().run(model)
    named = spec("SkipLayerNormalization").forms
    assert apply(LimitForms(), model).applied == 15 - named
    assert [function.domain for function in model.to_proto().functions].count(DOMAIN) == named
    equivalent(before, model, data)
