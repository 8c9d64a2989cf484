"""RestorePadding: packed rows back at their places in the padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import bodies
from turbo_onnx.custom_ops.remove_padding.spec import MASK_TYPES
from turbo_onnx.custom_ops.specification import Array, Attributes, Dims, Operand, OperatorSpec

ROW_TYPES = (
    "tensor(float)",
    "tensor(float16)",
    "tensor(bfloat16)",
    "tensor(double)",
    "tensor(int64)",
    "tensor(int32)",
    "tensor(bool)",
)
_INPUTS = (
    Operand("rows", "T", "[total_tokens, ...]", "One row for each token."),
    Operand("token_index", "tensor(int64)", "[total_tokens]", "As RemovePadding gives it: strictly ascending."),
    Operand("mask", "M", "[B, S]", "The mask that was given to RemovePadding; only its shape is read."),
)
_OUTPUTS = (Operand("output", "T", "[B, S, ...]", "The rows at their places, and zeros (false) everywhere else."),)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    text = f"""
        one = Constant <value = int64[1] {{1}}> ()
        end = Constant <value = int64[1] {{9223372036854775807}}> ()
        column = Constant <value = int64[2] {{-1, 1}}> ()
        mask_shape = Shape (mask)
        rows_shape = Shape (rows)
        row_shape = Slice (rows_shape, one, end)
        shape = Concat <axis = 0> (mask_shape, row_shape)
        {_zeros(opset)}
        length = Slice (mask_shape, one, end)
        {bodies.at_least_one("columns", "length")}
        sequence = Div (token_index, columns)
        position = Mod (token_index, columns)
        sequence_column = Reshape (sequence, column)
        position_column = Reshape (position, column)
        places = Concat <axis = 1> (sequence_column, position_column)
        output = ScatterND (zeros, places, rows)
    """
    return bodies.function("RestorePadding", _INPUTS, _OUTPUTS, (), opset, text)


def _zeros(opset: int) -> str:
    """`zeros` = zeros of shape `shape` and of the type of `rows`."""
    if opset >= bodies.CAST_LIKE_OPSET:
        return """
            float_zeros = ConstantOfShape (shape)
            zeros = CastLike (float_zeros, rows)
        """
    # Padding no element at all is the way to a zero of an unknown type here.
    return """
        flat_shape = Constant <value = int64[1] {-1}> ()
        nothing = Constant <value = int64[1] {0}> ()
        one_behind = Constant <value = int64[2] {0, 1}> ()
        flat = Reshape (rows, flat_shape)
        empty = Slice (flat, nothing, nothing)
        zero = Pad (empty, one_behind)
        zeros = Expand (zero, shape)
    """


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    rows, token_index, mask = inputs
    assert rows is not None and token_index is not None and mask is not None
    flat = np.zeros((mask.size, *rows.shape[1:]), rows.dtype)
    flat[token_index] = rows
    return (flat.reshape(*mask.shape, *rows.shape[1:]),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    rows, _, mask = shapes
    return (None if rows is None or mask is None else (*mask, *rows[1:]),)


SPEC = OperatorSpec(
    name="RestorePadding",
    doc="output.reshape(B * S, ...)[token_index] = rows, and zeros elsewhere. Below opset 15 the definition does not "
    "cover float16 and bfloat16, below 13 nor bool.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=(),
    types={"T": ROW_TYPES, "M": MASK_TYPES},
    kernel_types={"T": ROW_TYPES, "M": MASK_TYPES},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
