"""Raise the chains of nodes that exporters write for RMS normalization to RMSNormalization.

The chain computes x / sqrt(mean(x²) + epsilon) over the last axis and scales it (Zhang and Sennrich, "Root Mean Square
Layer Normalization", 2019). Exporters differ in how they square, in how they write one over the root, and in where they
put the scale; some models scale by 1 + weight, which is one constant by now. The standard operator came with opset 23:
below, the raised one stands for it.

Where a model computes the normalization in float32 and scales in half precision, what is in float32 is raised without
its scale.
"""

from __future__ import annotations

from turbo_onnx.custom_ops.bodies import RMS_NORMALIZATION_OPSET
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.passes.normalized_rows import check_operands, row_or_ones
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.pattern import Expression, bind, constant, op, variable


class RaiseRmsNormalization(Fusion):
    """Chains of primitive nodes become the standard operator, or the raised one below opset 23."""

    name = "raise-rms-normalization"
    summary = "Write chains that compute RMS normalization as RMSNormalization."
    misses_with = frozenset({"Sqrt", "ReduceMean"})

    def pattern(self) -> Expression:
        x, scale = variable("x"), constant("scale")

        def shifted() -> Expression:
            squares = x**2 | x * x
            return op.ReduceMean(squares, axes=[-1], keepdims=1) + bind("epsilon")

        def root() -> Expression:
            inside = shifted()
            return op.Sqrt(inside) | inside**0.5

        def inverse() -> Expression:
            shared = root()
            return op.Reciprocal(shared) | 1.0 / shared | shifted() ** -0.5

        def normalized(value: Expression) -> Expression:
            return value * inverse() | value / root()

        normal = normalized(x)
        scaled = normal * scale | normalized(x * scale) | x * (inverse() * scale) | x * (scale / root())
        return scaled | normal

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        x: Tensor = match.x
        check_operands(x, match.epsilon, "RMSNormalization")
        scale = row_or_ones(match.scale, x, edit, "rms_normalization_scale")
        domain = None if int(edit.graph.opset) >= RMS_NORMALIZATION_OPSET else RAISED_DOMAIN
        attributes = {"axis": -1, "epsilon": float(match.epsilon)}
        return edit.node("RMSNormalization", [x, scale], attrs=attributes, domain=domain)
