"""QuantizeRows: DynamicQuantizeLinear with a scale and a zero point for every row instead of one for the tensor.

So the numbers of a token depend neither on the other tokens of its batch nor on padding. Dettmers et al., "LLM.int8()"
(2022), call it row-wise, and Yao et al., "ZeroQuant" (2022), token-wise quantization.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops.bodies import REDUCTION_AXES_INPUT_OPSET, SUM_AXES_INPUT_OPSET, function
from turbo_onnx.custom_ops.specification import Array, Attributes, Dims, Operand, OperatorSpec

LEVELS = 255
SMALLEST = 1e-30
"""Rows within a range below it are zeros: 255 over a smaller one may be no float32."""

_INPUTS = (Operand("x", "tensor(float)", "[..., K]", "Rows of numbers; K is not 0."),)
_OUTPUTS = (
    Operand("output", "tensor(uint8)", "[..., K]", "x / scale + zero_point, rounded half to even."),
    Operand("scale", "tensor(float)", "[..., 1]", "(high - low) / 255, where low and high enclose the row and zero."),
    Operand("zero_point", "tensor(uint8)", "[..., 1]", "What stands for zero: -low / scale, rounded."),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    """The sum of zeros is not zero where a number is not finite, which ONNX Runtime's ReduceMin and ReduceMax skip."""
    del present, attributes
    text = f"""
        none = Constant <value = float {{0.0}}> ()
        levels = Constant <value = float {{{float(LEVELS)}}}> ()
        smallest = Constant <value = float {{{SMALLEST!r}}}> ()
        first = Constant <value = int64[1] {{0}}> ()
        second = Constant <value = int64[1] {{1}}> ()
        last_axis = Constant <value = int64[1] {{-1}}> ()
        {_reduced(opset, "ReduceMin", "lowest", "x")}
        {_reduced(opset, "ReduceMax", "highest", "x")}
        low = Min (lowest, none)
        high = Max (highest, none)
        range = Sub (high, low)
        step = Div (range, levels)
        nothing = Mul (x, none)
        {_reduced(opset, "ReduceSum", "undefined", "nothing")}
        scale = Add (step, undefined)
        inverse_or_more = Div (levels, range)
        flat = Less (range, smallest)
        inverse = Where (flat, none, inverse_or_more)
        below = Mul (low, inverse)
        point = Round (below)
        zero = Neg (point)
        zero_point = Cast <to = {onnx.TensorProto.UINT8}> (zero)
        steps = Mul (x, inverse)
        whole = Round (steps)
        shifted = Add (whole, zero)
        within = Clip (shifted, none, levels)
        output = Cast <to = {onnx.TensorProto.UINT8}> (within)
    """
    return function("QuantizeRows", _INPUTS, _OUTPUTS, (), opset, text)


def _reduced(opset: int, reduction: str, output: str, x: str) -> str:
    """The reduction of `x` over its rows. ONNX Runtime leaves what has no rows as wide as it is."""
    if opset >= (SUM_AXES_INPUT_OPSET if reduction == "ReduceSum" else REDUCTION_AXES_INPUT_OPSET):
        reduced = f"{output}_or_rows = {reduction} <keepdims = 1> ({x}, last_axis)\n"
    else:
        reduced = f"{output}_or_rows = {reduction} <axes = [-1], keepdims = 1> ({x})\n"
    return f"{reduced}{output} = Slice ({output}_or_rows, first, second, last_axis)"


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    """In float32, step by step as the definition: a number halfway between two must go to the same one."""
    del attributes
    (x,) = inputs
    assert x is not None
    rows = x.astype(np.float32)
    low = np.minimum(rows.min(axis=-1, keepdims=True), np.float32(0))
    high = np.maximum(rows.max(axis=-1, keepdims=True), np.float32(0))
    span = high - low
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(span < np.float32(SMALLEST), np.float32(0), np.float32(LEVELS) / span)
    zero = -np.rint(low * inverse)
    steps = np.clip(np.rint(rows * inverse) + zero, 0, LEVELS)
    return steps.astype(np.uint8), span / np.float32(LEVELS), zero.astype(np.uint8)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    del attributes
    (x,) = shapes
    row = None if x is None else (*x[:-1], 1)
    return x, row, row


SPEC = OperatorSpec(
    name="QuantizeRows",
    doc="output = round(x / scale) + zero_point in 8 bits, by the smallest scale of each row that holds it and zero.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=(),
    types={},
    kernel_types={},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
    on_gpus=False,
)
