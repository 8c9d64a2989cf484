"""Graphs in half precision, for tests of what is kept in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tests.passes.support import apply, graph, normal, parse
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.precision import Precision

W = normal(4, 4)


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
