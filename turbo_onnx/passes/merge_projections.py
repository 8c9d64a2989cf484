"""Compute the queries, keys and values of an attention with one MatMul instead of three.

`joined_weights.py` says when weights are joined; here are the places where they may be.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, input_or_none, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.joined_weights import Products, grouped_by_weights, join, products_of_one_tensor


class MergeProjections(Pass):
    """Join the Q, K and V projections that read the same tensor into one MatMul."""

    name = "merge-projections"
    summary = "Compute queries, keys and values with one MatMul."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        nodes: list[gs.Node] = []
        places: list[Products] = []
        for node in model.graph.nodes:
            if not is_op(node, "VarlenAttention", domain=DOMAIN) or input_or_none(node, 1) is None:
                continue
            try:
                places.append(_projections(node, edit))
                nodes.append(node)
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        for group in grouped_by_weights(places):
            try:
                joined = join(edit, [places[index] for index in group], "qkv")
            except Reject as reason:
                report.rejected += [Rejection(self.name, nodes[index].name, str(reason)) for index in group]
                continue
            for index, tensor in zip(group, joined, strict=True):
                for operand, new in enumerate((tensor, gs.Variable.empty(), gs.Variable.empty())):
                    nodes[index].inputs[operand] = new
            report.applied += len(group)
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _projections(node: gs.Node, edit: Editor) -> Products:
    """The three products that compute the attention's queries, keys and values.

    Raises:
        Reject: they cannot be one.
    """
    products = products_of_one_tensor(node.inputs[:3], edit)
    widths = [product.inputs[1].shape[1] for product in products]
    if len(set(widths)) != 1:
        raise Reject("its projections differ in width: {}", widths)
    return products
