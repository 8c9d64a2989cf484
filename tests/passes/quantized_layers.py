"""What tests of quantized layers share: a layer, how far it may be from float32, and what a refusal leaves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from tests.passes.support import apply, graph, normal, operators, parse, sentences
from turbo_onnx import runtime
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.passes.quantize_linear import QuantizeLinear
from turbo_onnx.passes.quantized_weights import quantized

IN, OUT = 40, 48
WEIGHT, BIAS = 0.1 * normal(IN, OUT), normal(OUT, seed=1)
X = normal(3, 5, IN, seed=2) * np.float32([[0.01], [1.0], [100.0], [1.0], [1.0]])
WEIGHTS = {"w": WEIGHT, "bias": BIAS}
PRODUCT = f"{DOMAIN}.QuantizedMatMul"
LAYER = {PRODUCT: 1}


def layer(nodes: str, weights: Mapping[str, np.ndarray] = WEIGHTS, outputs: str = "y") -> Model:
    results = ", ".join(f"float[B,S,{OUT}] {name}" for name in outputs.split())
    return parse(graph(f"g (float[B,S,{IN}] x) => ({results}) {{{nodes}}}", opset=20), weights)


def bound(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How far a product of rounded numbers can be from that of the numbers: half a step of either, times the other.

    And some roundings of float32 on top.
    """
    made = quantized(weight)
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    step = (np.maximum(x.max(-1, keepdims=True), 0) - np.minimum(x.min(-1, keepdims=True), 0)) / 255
    of_weights = np.abs(x).sum(-1, keepdims=True) * made.scale / 2
    of_rows = 0.5001 * step * np.abs(made.integers * made.scale.astype(np.float64)).sum(0)
    small: np.ndarray = 1e-5 * (1 + np.abs(x) @ np.abs(weight))
    return of_weights + of_rows + small


def by_kernels(model: Model, x: np.ndarray = X) -> list[np.ndarray]:
    proto = model.to_proto()
    del proto.functions[:]
    return list(runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": x}))


def refused(body: str, weights: Mapping[str, np.ndarray]) -> list[str]:
    model = parse(graph(body), weights)
    nodes, stored = operators(model), model.to_proto().graph.initializer
    report = apply(QuantizeLinear("int8"), model)
    assert report.applied == 0
    assert report.facts["int8_layers"] == 0
    assert operators(model) == nodes
    assert list(model.to_proto().graph.initializer) == list(stored)
    return sentences(report)


def end(model: Model) -> gs.Node:
    (node,) = (node for node in model.graph.nodes if node.op == "QuantizedMatMul")
    return node
