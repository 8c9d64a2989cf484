"""BiasGelu: the activation of a feed-forward layer together with the bias of the matrix product before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops.bodies import function, number
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("x", "T", "[..., H]", "The rows."),
    Operand("bias", "T", "[H]", "Added to every row; without it this is plain Gelu.", optional=True),
)
_OUTPUTS = (Operand("output", "T", "[..., H]", "gelu(x + bias)."),)
_ATTRIBUTES = (Attribute("approximate", "none", 'How Φ is computed: by erf ("none"), or approximated by "tanh".'),)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    approximate = str(attributes["approximate"])
    total = "total = Add (x, bias)\n" if "bias" in present else "total = Identity (x)\n"
    if opset >= 20:
        text = f'{total} output = Gelu <approximate = "{approximate}"> (total)'
    else:
        text = total + (_tanh_gelu(opset) if approximate == "tanh" else _erf_gelu(opset))
    return function("BiasGelu", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _erf_gelu(opset: int) -> str:
    return f"""
        {number(opset, "half", 0.5, "x")}
        {number(opset, "one", 1.0, "x")}
        {number(opset, "root_half", math.sqrt(0.5), "x")}
        scaled = Mul (total, root_half)
        error = Erf (scaled)
        shifted = Add (error, one)
        halved = Mul (total, half)
        output = Mul (halved, shifted)
    """


def _tanh_gelu(opset: int) -> str:
    return f"""
        {number(opset, "half", 0.5, "x")}
        {number(opset, "one", 1.0, "x")}
        {number(opset, "cubic", 0.044715, "x")}
        {number(opset, "rate", math.sqrt(2.0 / math.pi), "x")}
        square = Mul (total, total)
        cube = Mul (square, total)
        small = Mul (cube, cubic)
        argument = Add (total, small)
        scaled = Mul (argument, rate)
        tangent = Tanh (scaled)
        shifted = Add (tangent, one)
        halved = Mul (total, half)
        output = Mul (halved, shifted)
    """


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, bias = inputs
    assert x is not None
    total = x.astype(np.float64) + (0.0 if bias is None else bias.astype(np.float64))
    if attributes["approximate"] == "tanh":
        share = 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (total + 0.044715 * total**3)))
    else:
        share = 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(total / math.sqrt(2.0)))
    return ((total * share).astype(x.dtype),)


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
