"""Compute the gate of a feed-forward layer and what it lets through with one MatMul instead of two.

`joined_weights.py` says when weights are joined; here are the places where they may be. For GPUs only: on a CPU one
product takes as long as two (`benchmarks/gated_cpu.py`), and memory is lost, since the operator computes in place where
gate and up are apart.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, input_or_none, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.joined_weights import Products, grouped_by_weights, join, products_of_one_tensor


class MergeGatedProjections(Pass):
    """Join the two projections in front of a GatedActivation that read the same tensor into one MatMul."""

    name = "merge-gated-projections"
    summary = "Compute a gate and what it lets through with one MatMul."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        nodes: list[gs.Node] = []
        places: list[Products] = []
        for node in model.graph.nodes:
            if not is_op(node, "GatedActivation", domain=DOMAIN):
                continue
            up = input_or_none(node, 1)
            if up is None or up is node.inputs[0]:
                continue
            try:
                places.append(products_of_one_tensor(node.inputs[:2], edit))
                nodes.append(node)
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        for group in grouped_by_weights(places):
            try:
                joined = join(edit, [places[index] for index in group], "gated")
            except Reject as reason:
                report.rejected += [Rejection(self.name, nodes[index].name, str(reason)) for index in group]
                continue
            for index, tensor in zip(group, joined, strict=True):
                bias = input_or_none(nodes[index], 2)
                nodes[index].inputs = [tensor] if bias is None else [tensor, gs.Variable.empty(), bias]
            report.applied += len(group)
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report
