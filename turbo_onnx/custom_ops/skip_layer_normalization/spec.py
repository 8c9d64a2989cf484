"""SkipLayerNormalization: a residual connection, the bias of the matrix product before it, and the normalization.

The normalization is LayerNormalization (Ba, Kiros and Hinton, "Layer Normalization", 2016), or with `rms` that of Zhang
and Sennrich ("Root Mean Square Layer Normalization", 2019), which takes no mean off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import bodies, layers
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("x", "T", "[..., H]", "The rows."),
    Operand("skip", "T", "[..., H]", "The residual, of the same shape.", optional=True),
    Operand("gamma", "T", "[H]", "Scale of the normalization."),
    Operand("beta", "T", "[H]", "Shift of the normalization.", optional=True),
    Operand("bias", "T", "[H]", "Added to every row before the normalization.", optional=True),
)
_OUTPUTS = (
    Operand("output", "T", "[..., H]", "The normalized sum."),
    Operand("sum", "T", "[..., H]", "x + skip + bias, for blocks that read the sum again.", optional=True),
)
_ATTRIBUTES = (
    Attribute("epsilon", 1e-5, "Added to the variance, or to the mean square."),
    Attribute("rms", 0, "1: no mean is subtracted, and the root of the mean square divides."),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    beta = "beta" if "beta" in present else None
    added = [name for name in ("skip", "bias") if name in present]
    if len(added) == 2:
        total = "plain = Add (x, skip)\n sum = Add (plain, bias)\n"
    else:
        total = f"sum = Add (x, {added[0]})\n" if added else "sum = Identity (x)\n"
    normalization = bodies.rms_normalization if attributes["rms"] else bodies.layer_normalization
    text = total + normalization(opset, "output", "sum", "gamma", beta)
    return bodies.function("SkipLayerNormalization", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, skip, gamma, beta, bias = inputs
    assert x is not None and gamma is not None
    total = x.astype(np.float64)
    for term in (skip, bias):
        total = total if term is None else total + term.astype(np.float64)
    normalization = layers.rms_normalization if attributes["rms"] else layers.layer_normalization
    output = normalization(total, gamma, beta, attributes["epsilon"])
    return output.astype(x.dtype), total.astype(x.dtype)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    rows = shapes[0] if shapes[0] is not None else shapes[1]
    return rows, rows


SPEC = OperatorSpec(
    name="SkipLayerNormalization",
    doc="sum = x + skip + bias; output = (sum - mean(sum)) / sqrt(variance(sum) + epsilon) * gamma + beta, with mean "
    "and variance over the last axis; with rms = 1, output = sum / sqrt(mean(sum * sum) + epsilon) * gamma + beta.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")},
    kernel_types={"T": ("tensor(float)",)},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
    forms=6,
)
