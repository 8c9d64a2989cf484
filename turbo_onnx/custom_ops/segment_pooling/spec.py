"""SegmentPooling: one row for each sequence from the packed rows of its tokens, as sentence embeddings need."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops.bodies import (
    CAST_LIKE_OPSET,
    REDUCTION_AXES_INPUT_OPSET,
    SUM_AXES_INPUT_OPSET,
    function,
    number,
)
from turbo_onnx.custom_ops.packed_rows import constants, gather_padded, padded_index
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("rows", "T", "[T, H]", "The packed rows."),
    Operand("cu_seqlens", "tensor(int32)", "[B+1]", "Where each sequence starts, and at the end the number of rows."),
)
_OUTPUTS = (Operand("output", "T", "[B, H]", "One row for each sequence."),)
_ATTRIBUTES = (
    Attribute(
        "mode", "mean", 'What is made of a sequence\'s rows: "mean", "sum", "max" (of each column), or its "first" row.'
    ),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    mode = str(attributes["mode"])
    lines = {"mean": _mean, "sum": _sum, "max": _max, "first": _first}[mode](opset)
    text = f"{constants()}{padded_index('rows')}{gather_padded('rows', 'batch')}{lines}"
    return function("SegmentPooling", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _sum(opset: int, output: str = "output") -> str:
    if opset < SUM_AXES_INPUT_OPSET:
        return f"{output} = ReduceSum <axes = [1], keepdims = 0> (batch)\n"
    return f"{output} = ReduceSum <keepdims = 0> (batch, one)\n"


def _mean(opset: int) -> str:
    like = "divisor = CastLike (counted, rows)" if opset >= CAST_LIKE_OPSET else "divisor = Cast <to = 1> (counted)"
    return f"""
        {_sum(opset, "totals")}
        empty = Less (lengths_column, one)
        counted = Where (empty, one, lengths_column)
        {like}
        output = Div (totals, divisor)
    """


def _max(opset: int) -> str:
    reduce = (
        "output = ReduceMax <axes = [1], keepdims = 0> (candidates)"
        if opset < REDUCTION_AXES_INPUT_OPSET
        else "output = ReduceMax <keepdims = 0> (candidates, one)"
    )
    return f"""
        {number(opset, "lowest", float("-inf"), "rows")}
        valid_shape = Shape (valid)
        valid_rows_shape = Concat <axis = 0> (valid_shape, one)
        valid_rows = Reshape (valid, valid_rows_shape)
        candidates = Where (valid_rows, batch, lowest)
        {reduce}
    """


def _first(opset: int) -> str:
    return "output = Gather <axis = 1> (batch, nil)\n"


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    rows, cu_seqlens = inputs
    assert rows is not None
    assert cu_seqlens is not None
    mode = attributes["mode"]
    output = np.full((len(cu_seqlens) - 1, rows.shape[1]), -np.inf if mode == "max" else 0.0)
    for sequence, (start, end) in enumerate(itertools.pairwise(cu_seqlens)):
        tokens = rows[int(start) : int(end)].astype(np.float64)
        if len(tokens) == 0:
            continue
        if mode == "first":
            output[sequence] = tokens[0]
        elif mode == "max":
            output[sequence] = tokens.max(axis=0)
        else:
            output[sequence] = tokens.sum(axis=0) / (len(tokens) if mode == "mean" else 1)
    return (output.astype(rows.dtype),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    rows, cu_seqlens = shapes
    if rows is None or cu_seqlens is None:
        return (None,)
    return ((cu_seqlens[0] - 1, rows[1]),)


SPEC = OperatorSpec(
    name="SegmentPooling",
    doc=(
        "output[b] = mean, sum, maximum or first of rows[cu_seqlens[b] : cu_seqlens[b + 1]]. A sequence without rows "
        'gives zeros, or, for "max", -inf.'
    ),
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")},
    kernel_types={"T": ("tensor(float)",)},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
