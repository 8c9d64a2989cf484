"""What every pass that lowers has in common: each raised operator that nothing fused is written with standard ones."""

from __future__ import annotations

from abc import abstractmethod

import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.raised import RAISED_DOMAIN


class Lowering(Pass):
    """A pass that turns one raised operator back into what the model's opset has.

    Attributes:
        operator: its name in the raised domain.
    """

    operator: str

    @abstractmethod
    def lowered(self, edit: Editor, node: gs.Node, opset: int) -> Tensor:
        """Write one node anew with operators of the standard opset; returns what stands for its output."""

    def run(self, model: Model) -> PassReport:
        """Lower every node of the operator."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            if is_op(node, self.operator, domain=RAISED_DOMAIN):
                edit.replace(node.outputs[0], self.lowered(edit, node, model.opset))
                report.applied += 1
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report
