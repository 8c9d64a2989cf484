"""Compute the queries, keys and values of an attention with one MatMul instead of three, and rotate them as one.

Weights of three products are joined (`joined_weights.py` says when). Where one product holds all three already, but
queries and keys were cut out of it to be rotated (`rotated_heads.py`), the row is rotated whole; its columns are
brought into order by permuting the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.joined_weights import Products, grouped_by_weights, join, products_of_one_tensor
from turbo_onnx.passes.linear import linear, with_columns
from turbo_onnx.passes.rotated_heads import Rows, attend_to_joined, check_widths, rows_of
from turbo_onnx.passes.signed_columns import Spread, is_kept, sources, spread


@dataclass(frozen=True)
class _Place:
    """An attention whose projections are three products."""

    attention: gs.Node
    rows: Rows
    products: Products


class MergeProjections(Pass):
    """Join the Q, K and V projections that read the same tensor into one MatMul."""

    name = "merge-projections"
    summary = "Compute queries, keys and values with one MatMul."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        numbers = {id(node): number for number, node in enumerate(model.graph.nodes)}
        places: list[_Place] = []
        for node in list(model.graph.nodes):
            if not is_op(node, "VarlenAttention", domain=DOMAIN) or input_or_none(node, 1) is None:
                continue
            try:
                rows = rows_of(node, edit)
                check_widths(node, rows)
                source = _one_source(rows)
                if source is not None:
                    _rotate_whole(edit, node, rows, source, numbers, model.opset)
                    report.applied += 1
                else:
                    places.append(_Place(node, rows, products_of_one_tensor(rows.tensors, edit)))
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        for group in grouped_by_weights([place.products for place in places]):
            chosen = [places[index] for index in group]
            try:
                joined = join(edit, [place.products for place in chosen], "qkv")
            except Reject as reason:
                report.rejected += [Rejection(self.name, place.attention.name, str(reason)) for place in chosen]
                continue
            for place, tensor in zip(chosen, joined, strict=True):
                attend_to_joined(edit, place.attention, place.rows, tensor, place.rows.bias)
            report.applied += len(group)
        if edit.modified:
            edit.remove_unused()
            edit.sort()
        return report


def _one_source(rows: Rows) -> Tensor | None:
    """The one tensor of which rotated queries and keys, and values, are columns."""
    if not rows.rotations:
        return None
    above = [sources(tensor, {}) for tensor in rows.tensors]
    common = [tensor for tensor in above[0].values() if all(id(tensor) in found for found in above)]
    return common[0] if len(common) == 1 and common[0].shape is not None else None


def _rotate_whole(
    edit: Editor, node: gs.Node, rows: Rows, source: Tensor, numbers: Mapping[int, int], opset: int
) -> None:
    """Rotate the queries and keys of a row Q | K | V where they stand in it.

    Raises:
        Reject: the row is not that, and cannot be made that.
    """
    made = spread(source, len(source.shape) - 1, numbers, opset)
    orders = [None if made is None else _order(made, tensor) for tensor in rows.tensors]
    known = [order for order in orders if order is not None]
    width = source.shape[-1]
    if made is None or len(known) != 3:
        raise Reject("the columns of {} are not just cut into queries, keys and values", source.name)
    order = np.concatenate(known)
    if order.size != width or not (np.sort(order) == np.arange(width)).all():
        raise Reject("{} has other columns, too, than its queries, keys and values", source.name)
    alone = not any(
        is_kept(tensor, made, edit, numbers) for tensor, _ in made.made.values() if not _is_part(tensor, rows)
    )
    layer = linear(source) if alone else None
    bias = rows.bias
    straight = bool((order == np.arange(width)).all())
    if layer is None:
        if not straight:
            raise Reject("the columns of {} stand in another order, and its weight cannot be changed", source.name)
        attend_to_joined(edit, node, rows, source, bias)
        return
    if not straight and len(layer.weight.outputs) != 1:
        raise Reject("{} is read elsewhere too, and would be stored twice", layer.weight.name)
    if layer.bias is not None:
        bias = layer.bias[order] if bias is None else bias + layer.bias[order]
    joined = layer.product if straight else with_columns(edit, layer, order)
    attend_to_joined(edit, node, rows, joined, bias)


def _order(made: Spread, tensor: Tensor) -> np.ndarray | None:
    """Which columns of the source a tensor [rows…, N] is, in order."""
    columns = made.columns(tensor)
    if columns is None or columns.rows != tuple(range(made.row_axes)) or len(tensor.shape) != made.row_axes + 1:
        return None
    return columns.order


def _is_part(tensor: Tensor, rows: Rows) -> bool:
    """Whether the tensor is the queries, keys or values, and nothing else reads it."""
    return len(tensor.outputs) == 1 and any(tensor is part for part in rows.tensors)
