"""Raise the chain of nodes that older exporters write for layer normalization to LayerNormalization.

The chain computes (x - mean) / sqrt(variance + epsilon) over the last axis, then scales and shifts. Exporters differ
in how they square, in whether x - mean is computed once or twice, in the order of operands, and in what they leave
out. RMS normalization does not subtract the mean: see `raise_rms_normalization`.
"""

from __future__ import annotations

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.passes.normalized_rows import check_operands, row, row_or_ones
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
        check_operands(x, match.epsilon, "LayerNormalization")
        bias = None if match.bias is None else row(match.bias, x, edit)
        scale = row_or_ones(match.scale, x, edit, "layer_normalization_scale")
        attributes = {"axis": -1, "epsilon": float(match.epsilon)}
        return edit.node("LayerNormalization", [x, scale, bias], attrs=attributes)
