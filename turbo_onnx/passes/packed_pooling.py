"""Write reductions over each sequence as segment operators on packed rows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.padding_flow import Pooling
from turbo_onnx.passes.packed_rows import INT32, INT64, PackedRows


def write_pooling(edit: Editor, rows: PackedRows, node: gs.Node, pooling: Pooling) -> None:
    """Replace the node by a segment reduction of packed rows, or by the sequences' lengths."""
    result = node.outputs[0]
    if pooling.mode == "count":
        pooled = _counts(edit, rows, node, pooling.floor)
    else:
        tokens = rows.of(node.inputs[0])
        width = tokens.shape[1:]
        pooled = edit.node(
            "SegmentPooling",
            [tokens, rows.cu_seqlens],
            attrs={"mode": pooling.mode},
            domain=DOMAIN,
            hint=f"{node.name}_pooled",
            dtype=result.dtype,
            shape=[rows.layout.batch, *width],
        )
        if pooling.mode == "max" and pooling.floor != -np.inf:
            pooled = _with_padding(edit, rows, node, pooled, pooling.floor)
        if pooling.keeps_axis:
            target = rows.constant([0, 1, *width], f"{node.name}_axis")
            pooled = edit.node("Reshape", [pooled, target], hint=node.name, dtype=result.dtype,
                                     shape=[rows.layout.batch, 1, *width])  # fmt: skip
    edit.replace(result, pooled)


def _with_padding(edit: Editor, rows: PackedRows, node: gs.Node, largest: Tensor, padding: float) -> Tensor:
    """max(largest, padding) for sequences that have padding: a row of real tokens may lie below what fills padding."""
    batch = rows.layout.batch
    truth = np.dtype(np.bool_)
    sizes = edit.node("Shape", [rows.mask], hint=f"{node.name}_mask_shape", dtype=INT64, shape=[2])
    length = edit.node("Gather", [sizes, rows.constant([1], f"{node.name}_sequence_axis")], attrs={"axis": 0},
                       hint=f"{node.name}_padded_length", dtype=INT64, shape=[1])  # fmt: skip
    length = edit.node("Cast", [length], attrs={"to": onnx.TensorProto.INT32}, hint=f"{node.name}_length", dtype=INT32,
                       shape=[1])  # fmt: skip
    whole = edit.node("Equal", [_lengths(edit, rows, node), length], hint=f"{node.name}_whole", dtype=truth,
                      shape=[batch])  # fmt: skip
    column = rows.constant([-1, 1], f"{node.name}_column")
    whole = edit.node("Reshape", [whole, column], hint=f"{node.name}_whole", dtype=truth, shape=[batch, 1])
    floor = edit.constant(np.array(padding, dtype=largest.dtype), f"{node.name}_floor")
    filled = edit.node("Max", [largest, floor], hint=node.name, dtype=largest.dtype, shape=largest.shape)
    return edit.node("Where", [whole, largest, filled], hint=node.name, dtype=largest.dtype, shape=largest.shape)


def _lengths(edit: Editor, rows: PackedRows, node: gs.Node) -> Tensor:
    """How many tokens each sequence has."""
    ends = _sliced(edit, rows, 1, (1 << 31) - 1, node.name)
    starts = _sliced(edit, rows, 0, -1, node.name)
    return edit.node("Sub", [ends, starts], hint=f"{node.name}_lengths", dtype=INT32, shape=[rows.layout.batch])


def _counts(edit: Editor, rows: PackedRows, node: gs.Node, each: float) -> Tensor:
    """Σ over positions of a function of the mask that is 0 for padding: the sequence's length times `each`."""
    result = node.outputs[0]
    batch = rows.layout.batch
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(result.dtype)))
    counts = edit.node("Cast", [_lengths(edit, rows, node)], attrs={"to": kind}, hint=f"{node.name}_count",
                             dtype=result.dtype, shape=[batch])  # fmt: skip
    if each != 1:
        factor = edit.constant(np.array(each, dtype=result.dtype), f"{node.name}_each")
        counts = edit.node("Mul", [counts, factor], hint=node.name, dtype=result.dtype, shape=[batch])
    row = list(result.shape[1:])
    ones = rows.constant([0, *[1 for _ in row]], f"{node.name}_axes")
    if row:
        counts = edit.node("Reshape", [counts, ones], hint=node.name, dtype=result.dtype,
                                 shape=[batch, *[1 for _ in row]])  # fmt: skip
    if any(size != 1 for size in row):
        target = rows.constant([1, *(int(size) for size in row)], f"{node.name}_row")
        counts = edit.node("Expand", [counts, target], hint=node.name, dtype=result.dtype,
                                 shape=list(result.shape))  # fmt: skip
    return counts


def _sliced(edit: Editor, rows: PackedRows, start: int, end: int, hint: str) -> Tensor:
    """Part of cu_seqlens."""
    bounds = [rows.constant([value], f"{hint}_bound") for value in (start, end)]
    return edit.node("Slice", [rows.cu_seqlens, *bounds], hint=f"{hint}_bounds", dtype=INT32,
                           shape=[rows.layout.batch])  # fmt: skip
