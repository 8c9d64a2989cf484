"""Raise the model's opset to the first that has LayerNormalization, where no node changes its meaning by that.

Going further would buy Gelu (20) and Attention (23) as standard operators, at the price of every reduction's axes and
of runtimes that do not take such models yet; those two have a domain of their own between the stages instead. Version
17 is taken by every runtime that the package supports.
"""

from __future__ import annotations

from turbo_onnx.errors import Reject
from turbo_onnx.model import Model
from turbo_onnx.opset import raise_to
from turbo_onnx.passes.base import Pass, PassReport, Rejection

TARGET = 17


class RaiseOpset(Pass):
    """Models below opset 17 go to 17; later ones stay."""

    name = "raise-opset"
    summary = "Raise the opset to 17, which has LayerNormalization, where every node keeps its meaning."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name, facts={"opset_before": model.opset})
        if model.opset < TARGET:
            try:
                if model.shell.functions:
                    raise Reject("the model has functions of its own, written for that opset")
                report.facts["nodes_rewritten"] = raise_to(model.graph, TARGET)
                report.applied = 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, "", f"the opset stays at {model.opset}: {reason}"))
        report.facts["opset"] = model.opset
        return report
