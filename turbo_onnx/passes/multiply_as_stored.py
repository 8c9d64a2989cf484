"""Multiply by the transpose of a weight where the weight lies, instead of transposing it.

A decoder with tied embeddings multiplies by the transpose of the table that it looks tokens up in. Folding that would
store the table twice. As a Transpose it is computed in every run where ONNX Runtime's optimizations are off, which a
memory plan has to reckon with, and else once a session begins. FusedMatMul, which every ONNX Runtime has for the CPU,
reads either side as its transpose and packs the weight as MatMul does.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, consumers, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.widening_rules import RUNTIME_DOMAIN


class MultiplyAsStored(Pass):
    """MatMul(x, Transpose(weight)) of a constant matrix becomes FusedMatMul(x, weight)."""

    name = "multiply-as-stored"
    summary = "Multiply by the transpose of a weight without transposing it."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        outside_branches = {id(node) for node in model.graph.nodes}
        for transpose in [node for node in model.graph.nodes if _turns_weight(node)]:
            try:
                for product in _products(edit, transpose, outside_branches):
                    edit.replace(product.outputs[0], _fused(edit, product, transpose.inputs[0]))
                    report.applied += 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, transpose.name, str(reason)))
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _turns_weight(node: gs.Node) -> bool:
    """Whether the node transposes a float32 matrix that is constant."""
    if not is_op(node, "Transpose") or not isinstance(node.inputs[0], gs.Constant):
        return False
    weight = node.inputs[0]
    return weight.dtype == np.float32 and len(weight.shape) == 2 and list(node.attrs.get("perm", (1, 0))) == [1, 0]


def _products(edit: Editor, transpose: gs.Node, outside_branches: set[int]) -> list[gs.Node]:
    """What reads the transpose.

    Raises:
        Reject: it has to be computed all the same.
    """
    turned = transpose.outputs[0]
    if edit.is_graph_output(turned):
        raise Reject("the transpose of {} is an output", transpose.inputs[0].name)
    for reader in consumers(turned):
        x = reader.inputs[0]
        if not is_op(reader, "MatMul") or x is turned or id(reader) not in outside_branches:
            raise Reject("{} '{}' needs the transpose of {} itself", reader.op, reader.name, transpose.inputs[0].name)
        if not x.shape or len(x.shape) < 2:
            raise Reject("{} is not known to have rows", x.name)
    return consumers(turned)


def _fused(edit: Editor, product: gs.Node, weight: gs.Constant) -> gs.Variable:
    return edit.node(
        "FusedMatMul",
        [product.inputs[0], weight],
        attrs={"transB": 1},
        domain=RUNTIME_DOMAIN,
        hint=product.name,
        dtype=np.float32,
        shape=product.outputs[0].shape,
    )
