"""LowerRmsNormalization: a raised one becomes what the standard operator computes, from primitives of the opset."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, equivalent, graph, normal, operators, parse
from turbo_onnx.model import Model
from turbo_onnx.passes.lower_rms_normalization import LowerRmsNormalization

CHAIN = ["Pow", "ReduceMean", "Add", "Sqrt", "Div"]


def raised(scale: str, opset: int) -> Model:
    text = f"g (float[B,S,4] x) => (float[B,S,4] y) <float[4] scale = {{{scale}}}> {{y = Mul(x, scale)}}"
    model = parse(graph(text, opset=opset))
    node = model.graph.nodes[0]
    node.op, node.domain, node.attrs = "RMSNormalization", "turbo_onnx.raised", {"axis": -1, "epsilon": 0.25}
    return model


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
def test_it_computes_what_the_standard_operator_computes(opset: int) -> None:
    text = "g (float[B,S,4] x, float[4] scale) => (float[B,S,4] y) {y = RMSNormalization<epsilon=0.25>(x, scale)}"
    x = normal(2, 3, 4)
    x[0, 0] = 0.0
    lowered = raised("1, 2, -1, 0.5", opset)
    assert apply(LowerRmsNormalization(), lowered).applied == 1
    assert operators(lowered) == [*CHAIN, "Mul"]
    standard = parse(graph(text, opset=23, ir_version=11))
    scale = np.array([1, 2, -1, 0.5], np.float32)
    expected = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 0.25) * scale
    equivalent([expected], lowered, {"x": x})
    equivalent([expected], standard, {"x": x, "scale": scale})


def test_a_scale_of_ones_needs_no_product() -> None:
    lowered = raised("1, 1, 1, 1", 17)
    apply(LowerRmsNormalization(), lowered)
    assert operators(lowered) == CHAIN


def test_a_standard_one_stays() -> None:
    text = "g (float[B,4] x, float[4] scale) => (float[B,4] y) {y = RMSNormalization(x, scale)}"
    assert apply(LowerRmsNormalization(), parse(graph(text, opset=23, ir_version=11))).applied == 0
