"""Take away two Transposes that undo each other, with nothing between them that minds the order of rows.

torch.nn's attention works on [S, B, H] and is handed [B, S, H]: the batch and the sequence change places in front of
each attention and back behind it, and all that stands between then are linear layers and element-wise operators, which
do the same to every row wherever it is.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.linear import is_vector

_UNARY = ("Relu", "Gelu", "Tanh", "Sigmoid", "Erf", "Identity", "Neg", "Sqrt", "Exp")
_LONGEST = 16


class CancelTransposes(Pass):
    """Remove pairs of opposite Transposes around what works row by row."""

    name = "cancel-transposes"
    summary = "Remove opposite Transposes around operators that work row by row."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            if is_op(node, "Transpose") and _cancel(edit, node):
                report.applied += 1
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _cancel(edit: Editor, last: gs.Node) -> bool:
    """Remove the Transpose if the chain above it begins with the opposite one and is read by nothing else."""
    order = _order(last)
    if order is None or order[-1] != len(order) - 1:
        return False
    chain: list[gs.Node] = []
    current: Tensor = last.inputs[0]
    while len(chain) < _LONGEST:
        if not current.inputs or len(current.outputs) != 1 or edit.is_graph_output(current):
            return False
        node = current.inputs[0]
        if is_op(node, "Transpose"):
            first = _order(node)
            break
        source = _row_by_row(node)
        if source is None:
            return False
        chain.append(node)
        current = source
    else:
        return False
    if first is None or len(first) != len(order) or [first[axis] for axis in order] != list(range(len(order))):
        return False
    tensor: Tensor = node.inputs[0]
    for step in reversed(chain):
        made = step.outputs[0]
        operands = [tensor if operand is _row_by_row(step) else operand for operand in step.inputs]
        shape = [made.shape[axis] for axis in order]
        tensor = edit.node(
            step.op, operands, attrs=step.attrs, domain=step.domain, hint=step.name, dtype=made.dtype, shape=shape
        )
    edit.replace(last.outputs[0], tensor)
    return True


def _order(transpose: gs.Node) -> list[int] | None:
    order = transpose.attrs.get("perm")
    return None if order is None else [int(axis) for axis in order]


def _row_by_row(node: gs.Node) -> Tensor | None:
    """The operand whose rows the node works on one by one; None if it does not do that."""
    if len(node.outputs) != 1 or node.outputs[0].shape is None:
        return None
    if is_op(node, *_UNARY):
        return node.inputs[0]
    rank = len(node.outputs[0].shape)
    if is_op(node, "MatMul"):
        weight = node.inputs[1]
        matrix = (
            isinstance(weight, gs.Constant) and len(weight.shape) == 2 and not isinstance(node.inputs[0], gs.Constant)
        )
        return node.inputs[0] if matrix and rank >= 3 else None
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        for index in (0, 1):
            operand, other = node.inputs[index], node.inputs[1 - index]
            if is_vector(other, node.outputs[0].shape[-1]) and not isinstance(operand, gs.Constant):
                return operand if operand.shape == node.outputs[0].shape else None
    return None
