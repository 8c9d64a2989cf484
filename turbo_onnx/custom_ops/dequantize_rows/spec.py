"""DequantizeRows: what a product of 8-bit integers stands for, as float32 numbers, with the rest of its layer.

For rows q of unsigned integers, with a scale s and a zero point z each, and a weight W of integers, with a scale t for
each column, (q - z) s · W t = (q · W - z · column_sums(W)) · s · t; so the product can be taken of q as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import activations
from turbo_onnx.custom_ops.bodies import function
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("x", "tensor(int32)", "[..., N]", "The product of quantized rows and a quantized weight."),
    Operand("scale", "tensor(float)", "[..., 1]", "Of the rows."),
    Operand("zero_point", "tensor(uint8)", "[..., 1]", "Of the rows."),
    Operand("weight_scale", "tensor(float)", "[N]", "Of the columns of the weight."),
    Operand("column_sums", "tensor(int32)", "[N]", "The sums of the columns of the quantized weight."),
    Operand("bias", "tensor(float)", "[N]", "Added to every row.", optional=True),
)
_OUTPUTS = (
    Operand("output", "tensor(float)", "[..., N]", "The numbers that the layer computes, after its activation."),
)
_ATTRIBUTES = (
    Attribute("activation", "none", '"none", "gelu", "gelu_tanh" (Φ approximated), "silu", "relu" or "sigmoid".'),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    activation = str(attributes["activation"])
    bias = "total = Add (scaled, bias)" if "bias" in present else "total = Identity (scaled)"
    end = (
        "output = Identity (total)" if activation == "none" else activations.body(opset, activation, "output", "total")
    )
    text = f"""
        zero = Cast <to = {onnx.TensorProto.INT32}> (zero_point)
        shift = Mul (zero, column_sums)
        shifted = Sub (x, shift)
        steps = Cast <to = {onnx.TensorProto.FLOAT}> (shifted)
        columns = Mul (steps, weight_scale)
        scaled = Mul (columns, scale)
        {bias}
        {end}
    """
    return function("DequantizeRows", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, scale, zero_point, weight_scale, column_sums, bias = inputs
    assert x is not None and scale is not None and zero_point is not None
    assert weight_scale is not None and column_sums is not None
    steps = x.astype(np.int64) - zero_point.astype(np.int64) * column_sums
    result = steps * weight_scale.astype(np.float64) * scale
    if bias is not None:
        result = result + bias
    if attributes["activation"] != "none":
        result = activations.reference(str(attributes["activation"]), result)
    return (result.astype(np.float32),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    del attributes
    return (shapes[0],)


SPEC = OperatorSpec(
    name="DequantizeRows",
    doc="output = activation((x - zero_point · column_sums) · weight_scale · scale + bias), x a product of integers.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={},
    kernel_types={},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
    forms=4,
    on_gpus=False,
)
