"""BiasGelu: the activation of a feed-forward layer together with the bias of the matrix product before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import activations
from turbo_onnx.custom_ops.bodies import function
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("x", "T", "[..., H]", "The rows."),
    Operand("bias", "T", "[H]", "Added to every row; without it this is plain Gelu.", optional=True),
)
_OUTPUTS = (Operand("output", "T", "[..., H]", "gelu(x + bias)."),)
_ATTRIBUTES = (Attribute("approximate", "none", 'How Φ is computed: by erf ("none"), or approximated by "tanh".'),)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    total = "total = Add (x, bias)\n" if "bias" in present else "total = Identity (x)\n"
    text = total + activations.body(opset, _activation(attributes), "output", "total")
    return function("BiasGelu", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _activation(attributes: Attributes) -> str:
    return "gelu_tanh" if attributes["approximate"] == "tanh" else "gelu"


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, bias = inputs
    assert x is not None
    total = x.astype(np.float64) + (0.0 if bias is None else bias.astype(np.float64))
    return (activations.reference(_activation(attributes), total).astype(x.dtype),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    return (shapes[0],)


SPEC = OperatorSpec(
    name="BiasGelu",
    doc="output = gelu(x + bias), where gelu(z) = z * Φ(z) and Φ is the standard normal distribution function.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")},
    kernel_types={"T": ("tensor(float)",)},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
