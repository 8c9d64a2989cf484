"""Normalize rows before axes change places instead of after.

    x ─Transpose─▶ ─RMSNormalization─▶   becomes   x ─RMSNormalization─▶ ─Transpose─▶

Queries and keys are normalized in each head, by some models in front of the Transpose that brings heads before tokens,
by others behind it. Rows that stay together are normalized alike in any order. In front of the Transpose, the heads of
a token still lie beside each other, as what rotates them and what removes padding want them.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, consumers, produced_by
from turbo_onnx.layout import has_standard_meaning
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.moved_axes import Moved, inverse, moved, order_of
from turbo_onnx.passes.reshaping import transposed


class NormalizeBeforeTransposing(Pass):
    """LayerNormalization and RMSNormalization of axes that a Transpose leaves at the end read what it reads."""

    name = "normalize-before-transposing"
    summary = "Normalize rows before axes change places."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            transpose = produced_by(node.inputs[0], "Transpose") if _normalizes(node) else None
            rule = None if transpose is None else _rule(edit, node, transpose, model.opset)
            if transpose is None or rule is None:
                continue
            source, result = transpose.inputs[0], node.outputs[0]
            normal = edit.node(node.op, [source, *node.inputs[1:]], attrs=rule.attrs, domain=node.domain,
                               hint=node.name, dtype=result.dtype, shape=source.shape)  # fmt: skip
            edit.replace(result, transposed(edit, normal, transpose.attrs["perm"]))
            report.applied += 1
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _normalizes(node: gs.Node) -> bool:
    return node.op in ("LayerNormalization", "RMSNormalization") and has_standard_meaning(node)


def _rule(edit: Editor, node: gs.Node, transpose: gs.Node, opset: int) -> Moved | None:
    """How to write the normalization in front of the Transpose; None where it must or should stay behind it."""
    order, between = order_of(transpose), transpose.outputs[0]
    if not order or edit.is_graph_output(between) or len(consumers(between)) != 1 or len(node.outputs) != 1:
        return None
    return moved(node, inverse(order), opset)
