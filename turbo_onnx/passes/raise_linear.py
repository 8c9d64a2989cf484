"""Write a linear layer on flattened rows as MatMul and Add on the rows as they were.

    x [A, B, K] ─Reshape─▶ [A*B, K] ─Gemm─▶ [A*B, N] ─Reshape─▶ [A, B, N]

A Gemm takes matrices only, so exporters flatten the rows in front of one (and merge the heads of an attention on the
way) and cut them again behind it. MatMul needs neither, and its bias can then go into what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op, produced_by
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.linear import is_vector
from turbo_onnx.passes.reshaping import reshaped
from turbo_onnx.passes.views import applied, whole
from turbo_onnx.precision import half_type


@dataclass(frozen=True)
class _Detour:
    """The tensors in front of the first Reshape, [A, B, …], and behind the second, [A, B, N]."""

    x: Tensor
    y: Tensor


class RaiseLinear(Pass):
    """Turn Gemm between two Reshapes into MatMul and Add."""

    name = "raise-linear"
    summary = "Write linear layers on flattened rows as MatMul and Add on the rows as they were."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            detour = _detour(node, model.opset) if is_op(node, "Gemm") else None
            if detour is None:
                continue
            try:
                _rewrite(edit, node, detour)
                report.applied += 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _detour(gemm: gs.Node, opset: int) -> _Detour | None:
    """The Reshapes around the Gemm, if the second one undoes the first."""
    flatten = produced_by(gemm.inputs[0], "Reshape")
    result = gemm.outputs[0]
    if flatten is None or len(result.outputs) != 1 or not is_op(result.outputs[0], "Reshape"):
        return None
    cut = result.outputs[0]
    x, y = flatten.inputs[0], cut.outputs[0]
    if cut.inputs[0] is not result or x.shape is None or y.shape is None or len(x.shape) < 3 or len(y.shape) != 3:
        return None
    view = applied(whole(x.shape), flatten, gemm.inputs[0], opset)
    if view is None or y.shape[:2] != x.shape[:2]:
        return None
    first, second, *rest = whole(x.shape).axes
    columns = tuple(piece for axis in rest for piece in axis)
    return _Detour(x, y) if view.axes == (first + second, columns) else None


def _rewrite(edit: Editor, gemm: gs.Node, detour: _Detour) -> None:
    weight, bias = gemm.inputs[1], input_or_none(gemm, 2)
    if half_type(gemm.outputs[0].dtype) is not None:
        raise Reject("{} is in half precision, and what is left of that keeps its roundings", gemm.outputs[0].name)
    if edit.is_graph_output(gemm.outputs[0]):
        raise Reject("{} is an output of the graph", gemm.outputs[0].name)
    if gemm.attrs.get("transA", 0) or gemm.attrs.get("alpha", 1.0) != 1.0 or gemm.attrs.get("beta", 1.0) != 1.0:
        raise Reject("it transposes or scales: {}", dict(gemm.attrs))
    if not isinstance(weight, gs.Constant):
        raise Reject("its weight {} is not constant", weight.name)
    if bias is not None and not is_vector(bias, detour.y.shape[2]):
        raise Reject("its bias {} is not a constant with one number for each column", bias.name)
    if gemm.attrs.get("transB", 0):
        if len(weight.outputs) != 1:
            raise Reject("its transposed weight {} is read elsewhere too, and would be stored twice", weight.name)
        weight = edit.constant(np.ascontiguousarray(weight.values.T), f"{weight.name}_transposed")
    dtype, shape = detour.y.dtype, detour.y.shape
    x = detour.x
    if len(x.shape) != 3:
        x = reshaped(edit, x, [0, 0, weight.shape[0]], [*x.shape[:2], weight.shape[0]])
    result = edit.node("MatMul", [x, weight], hint=f"{gemm.name}_MatMul", dtype=dtype, shape=shape)
    if bias is not None:
        result = edit.node("Add", [result, bias], hint=f"{gemm.name}_Add", dtype=dtype, shape=shape)
    edit.replace(detour.y, result)
