"""QuantizedMatMul: a layer that multiplies 8-bit integers, from the numbers that it reads to those that it gives.

Every row gets a scale s and a zero point z of its own at run time, so the numbers of a token depend neither on the
other tokens of its batch nor on padding: row-wise quantization in Dettmers et al., "LLM.int8()" (2022), token-wise in
Yao et al., "ZeroQuant" (2022). Columns of the weight have a scale t each. For a row q of unsigned integers and a weight
W of signed ones, (q - z) s · W t = (q · W - z · column_sums(W)) · s · t; so the product is taken of q as it is.

Quantizing, product and what ends the layer are one operator, so that integers never leave the processor's caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import activations
from turbo_onnx.custom_ops.bodies import REDUCTION_AXES_INPUT_OPSET, SUM_AXES_INPUT_OPSET, function
from turbo_onnx.custom_ops.quantized_mat_mul.layout import COLUMNS, untiled
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

LEVELS = 255
SMALLEST = 1e-30
"""Rows within a range below it are zeros: 255 over a smaller one may be no float32."""

_INPUTS = (
    Operand("x", "tensor(float)", "[..., K]", "Rows of numbers; K is not 0."),
    Operand(
        "weight",
        "tensor(int8)",
        "[⌈N / 16⌉, ⌈K / 64⌉, 16, 16, 4]",
        "Integers [K, N] in blocks: of columns; of rows; of four rows; columns; rows. Zeros fill the last blocks up. "
        "Rows 2i and 2i + 1 of a column may come to 128 at most, of what is positive and of what is negative.",
    ),
    Operand("weight_scale", "tensor(float)", "[N]", "Of the columns of the weight."),
    Operand("column_sums", "tensor(int32)", "[N]", "The sums of the columns of the weight."),
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
        {_quantized_rows(opset)}
        {_weight_matrix()}
        product = MatMulInteger (rows, integers)
        shift = Mul (zero_point, column_sums)
        shifted = Sub (product, shift)
        steps_of_product = Cast <to = {onnx.TensorProto.FLOAT}> (shifted)
        columns_scaled = Mul (steps_of_product, weight_scale)
        scaled = Mul (columns_scaled, scale)
        {bias}
        {end}
    """
    return function("QuantizedMatMul", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _quantized_rows(opset: int) -> str:
    """`rows` uint8, `scale`, `zero_point` int32, of `x`.

    The sum of zeros is not zero where a number is not finite, which ONNX Runtime's ReduceMin and ReduceMax skip.
    """
    return f"""
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
        zero_byte = Cast <to = {onnx.TensorProto.UINT8}> (zero)
        zero_point = Cast <to = {onnx.TensorProto.INT32}> (zero_byte)
        steps = Mul (x, inverse)
        whole = Round (steps)
        above_zero = Add (whole, zero)
        within = Clip (above_zero, none, levels)
        rows = Cast <to = {onnx.TensorProto.UINT8}> (within)
    """


def _reduced(opset: int, reduction: str, output: str, x: str) -> str:
    """The reduction of `x` over its rows. ONNX Runtime leaves what has no rows as wide as it is."""
    if opset >= (SUM_AXES_INPUT_OPSET if reduction == "ReduceSum" else REDUCTION_AXES_INPUT_OPSET):
        reduced = f"{output}_or_rows = {reduction} <keepdims = 1> ({x}, last_axis)\n"
    else:
        reduced = f"{output}_or_rows = {reduction} <axes = [-1], keepdims = 1> ({x})\n"
    return f"{reduced}{output} = Slice ({output}_or_rows, first, second, last_axis)"


def _weight_matrix() -> str:
    """`integers` [K, N], of `weight`; constants, where ONNX Runtime knows K."""
    return f"""
        block = Constant <value = int64[1] {{{COLUMNS}}}> ()
        rest = Constant <value = int64[1] {{-1}}> ()
        corner = Constant <value = int64[2] {{0, 0}}> ()
        blocks = Shape (weight)
        column_blocks = Slice (blocks, first, second)
        all_columns = Mul (column_blocks, block)
        matrix = Concat <axis = 0> (rest, all_columns)
        by_rows = Transpose <perm = [1, 2, 4, 0, 3]> (weight)
        filled_up = Reshape (by_rows, matrix)
        shape_of_x = Shape (x)
        rank = Shape (shape_of_x)
        depth = Slice (shape_of_x, rest, rank)
        width = Shape (weight_scale)
        sizes = Concat <axis = 0> (depth, width)
        integers = Slice (filled_up, corner, sizes)
    """


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, weight, weight_scale, column_sums, bias = inputs
    assert x is not None and weight is not None and weight_scale is not None and column_sums is not None
    rows, scale, zero_point = quantized_rows(x)
    integers = untiled(weight, x.shape[-1], len(weight_scale)).astype(np.int64)
    steps = rows.astype(np.int64) @ integers - zero_point.astype(np.int64) * column_sums
    result = steps * weight_scale.astype(np.float64) * scale
    if bias is not None:
        result = result + bias
    if attributes["activation"] != "none":
        result = activations.reference(str(attributes["activation"]), result)
    return (result.astype(np.float32),)


def quantized_rows(x: Array) -> tuple[Array, Array, Array]:
    """What rows [..., K] become: bytes [..., K], their scales [..., 1] and zero points [..., 1].

    In float32, step by step as the definition: a number halfway between two must go to the same one.
    """
    rows = x.astype(np.float32)
    low = np.minimum(rows.min(axis=-1, keepdims=True), np.float32(0))
    high = np.maximum(rows.max(axis=-1, keepdims=True), np.float32(0))
    span = high - low
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(span < np.float32(SMALLEST), np.float32(0), np.float32(LEVELS) / span)
    zero = -np.rint(low * inverse)
    steps = np.clip(np.rint(rows * inverse) + zero, 0, LEVELS)
    return steps.astype(np.uint8), span / np.float32(LEVELS), zero.astype(np.uint8)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    del attributes
    x, scale = shapes[0], shapes[2]
    return (None if x is None or scale is None else (*x[:-1], scale[0]),)


SPEC = OperatorSpec(
    name="QuantizedMatMul",
    doc=(
        "output = activation((q · weight - zero_point · column_sums) · weight_scale · scale + bias), where q = "
        "round(x / scale) + zero_point in 8 bits, by the smallest scale of each row that holds it and zero."
    ),
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
