"""Raise the chain of nodes that older exporters write for layer normalization to LayerNormalization.

The chain computes (x - mean) / sqrt(variance + epsilon) over the last axis, then scales and shifts. Exporters differ
in how they square, in whether x - mean is computed once or twice, in the order of operands, and in what they leave
out. RMS normalization does not subtract the mean and is not matched.
"""

from __future__ import annotations

import numpy as np

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.pattern import Expression, bind, constant, op, variable


class RaiseLayerNormalization(Fusion):
    """Chains of primitive nodes become the standard operator."""

    name = "raise-layer-normalization"
    summary = "Write chains that compute layer normalization as LayerNormalization."
    misses_with = frozenset({"Sqrt", "ReduceMean"})

    def pattern(self) -> Expression:
        x, scale, bias = variable("x"), constant("scale"), constant("bias")

        def mean(value: Expression) -> Expression:
            return op.ReduceMean(value, axes=[-1], keepdims=1)

        def centered() -> Expression:
            return x - mean(x)

        def variance() -> Expression:
            return mean(centered() ** 2) | mean(centered() * centered())

        def deviation() -> Expression:
            shifted = variance() + bind("epsilon")
            return op.Sqrt(shifted) | shifted**0.5

        def inverse() -> Expression:
            shared = deviation()
            return op.Reciprocal(shared) | 1.0 / shared

        normal = centered() / deviation() | centered() * inverse()
        factor = inverse() * scale
        distributed = x * factor + (bias - mean(x) * factor)
        return normal * scale + bias | distributed | normal * scale | normal + bias | normal

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        x: Tensor = match.x
        opset = int(edit.graph.opset)
        if opset < 17:
            raise Reject("LayerNormalization needs opset 17, and the model stays at {}", opset)
        if x.dtype != np.float32:  # it would lose digits of a double, and change what half precision decides
            raise Reject("{} is {}, and LayerNormalization computes in float32", x.name, x.dtype)
        if not x.shape or not isinstance(x.shape[-1], int):
            raise Reject("the length of the last axis of {} is not known", x.name)
        if match.epsilon < 0:
            raise Reject("epsilon is {}", match.epsilon)
        width, rank = x.shape[-1], len(x.shape)
        scale = row(match.scale, width, rank, edit)
        bias = None if match.bias is None else row(match.bias, width, rank, edit)
        if scale is None:
            scale = edit.constant(np.ones(width, x.dtype), "layer_normalization_scale")
        attributes = {"axis": -1, "epsilon": float(match.epsilon)}
        return edit.node("LayerNormalization", [x, scale, bias], attrs=attributes)


def row(value: Tensor | None, width: int, rank: int, edit: Editor) -> Tensor | None:
    """The constant as one row [width] that is added to, or multiplies, every row of a tensor of that rank.

    Raises:
        Reject: it differs from row to row, or would add an axis.
    """
    if value is None:
        return None
    shape = list(value.shape)
    if shape == [width]:
        return value
    if len(shape) > rank or any(size != 1 for size in shape[:-1]) or (shape and shape[-1] not in (1, width)):
        raise Reject("{} {} is not one row of {} numbers", value.name, shape, width)
    return edit.constant(np.ascontiguousarray(np.broadcast_to(value.values.reshape(-1), width)), f"{value.name}_row")
