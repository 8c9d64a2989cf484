"""FuseBiasGelu: a Gelu takes the constant row that is added in front of it, or goes alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.fuse_bias_gelu import FuseBiasGelu

BIASED = "g (float[B,S,4] x) => (float[B,S,4] y) <float[4] bias = {1, -2, 0.5, 0}>"
X = {"x": normal(2, 3, 4)}


def check(model: Model, expected: dict[str, int]) -> None:
    before = run(model, X)
    apply(FuseBiasGelu(), model)
    assert count(model) == expected
    equivalent(before, model, X)


@pytest.mark.parametrize("operands", ["x, bias", "bias, x"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_and_gelu_become_one(operands: str, approximate: str) -> None:
    nodes = f'a = Add({operands}) y = Gelu<approximate="{approximate}">(a)'
    model = parse(graph(f"{BIASED} {{{nodes}}}", opset=20))
    check(model, {"turbo_onnx.BiasGelu": 1})
    assert model.graph.nodes[0].attrs["approximate"] == approximate
    assert [tensor.name for tensor in model.graph.nodes[0].inputs] == ["x", "bias"]


def test_raised_gelu_is_taken_too() -> None:
    model = parse(graph(f"{BIASED} {{a = Add(x, bias) y = Relu(a)}}", opset=17))
    node = model.graph.nodes[1]
    node.op, node.domain, node.attrs = "Gelu", "turbo_onnx.raised", {"approximate": "none"}
    check(model, {"turbo_onnx.BiasGelu": 1})


def test_gelu_alone_becomes_the_operator_without_bias() -> None:
    check(parse(graph(f"{BIASED} {{y = Gelu(x)}}", opset=20)), {"turbo_onnx.BiasGelu": 1})


def test_a_sum_that_is_read_elsewhere_stays_outside() -> None:
    model = parse(graph(f"{BIASED} {{a = Add(x, bias) g1 = Gelu(a) y = Mul(g1, a)}}", opset=20))
    check(model, {"Add": 1, "turbo_onnx.BiasGelu": 1, "Mul": 1})


@pytest.mark.parametrize(
    "bias", ["float[1,1,4] bias = {1, 2, 3, 4}", "float bias = {1}", "float[3,4] bias = {1,2,3,4,5,6,7,8,9,10,11,12}"]
)
def test_an_addend_that_is_not_a_row_stays_outside(bias: str) -> None:
    model = parse(graph(f"g (float[B,S,4] x) => (float[B,S,4] y) <{bias}> {{a = Add(x, bias) y = Gelu(a)}}", opset=20))
    check(model, {"Add": 1, "turbo_onnx.BiasGelu": 1})


def test_half_precision_has_no_kernel() -> None:
    model = parse(graph("g (float16[B,4] x) => (float16[B,4] y) {y = Gelu(x)}", opset=20))
    report = apply(FuseBiasGelu(), model)
    assert operators(model) == ["Gelu"]
    assert sentences(report) == ["x is float16, and BiasGelu has a kernel for float32 only"]


def test_results_keep_type_and_shape() -> None:
    model = parse(graph(f"{BIASED} {{a = Add(x, bias) h = Gelu(a) y = Relu(h)}}", opset=20))
    apply(FuseBiasGelu(), model)
    result = model.graph.nodes[0].outputs[0]
    assert (result.dtype, list(result.shape)) == (np.float32, ["B", "S", 4])
