"""Take away nodes that give back what they are given."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.dims import Dim, as_dim
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op, produced_by, scalar_value
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.simplify_shapes import constant_target


class RemoveNoOps(Pass):
    """Identity, same-type Cast, same-shape Reshape, inference-time Dropout and their like go; Reshape chains merge."""

    name = "remove-no-ops"
    summary = "Take away nodes that change nothing."

    def run(self, model: Model) -> PassReport:
        """Go through the graph once, in order, so that chains of such nodes go in one run."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        inputs = {id(tensor) for tensor in model.graph.inputs}
        assumed = shapes.assumed_equal(model)
        for node in list(model.graph.nodes):
            if not node.outputs or not node.inputs:
                continue
            if is_op(node, "Reshape"):
                report.applied += _merge_reshapes(edit, node)
            same = _same_as(edit, node, assumed)
            if same is not None:
                result = node.outputs[0]
                pinned = edit.is_graph_output(result) and (
                    id(same) in inputs or isinstance(same, gs.Constant) or edit.is_graph_output(same)
                )
                if not pinned:
                    edit.replace(result, same)
                    report.applied += 1
        edit.remove_unused()
        edit.sort()
        return report


def _same_as(edit: Editor, node: gs.Node, assumed: set[str]) -> Tensor | None:
    """The operand that the node's first output equals, element by element and in shape, if there is one."""
    operand, result = node.inputs[0], node.outputs[0]
    if is_op(node, "Identity"):
        return operand
    if is_op(node, "Cast"):
        return operand if operand.dtype is not None and operand.dtype == result.dtype else None
    if is_op(node, "Concat") and len(node.inputs) == 1:
        return operand
    if is_op(node, "Dropout"):
        training = input_or_none(node, 2)
        mask = node.outputs[1] if len(node.outputs) > 1 else None
        unread = mask is None or not (mask.outputs or edit.is_graph_output(mask))
        return operand if unread and (training is None or scalar_value(training) is False) else None
    if is_op(node, "Mul", "Div"):
        return _times_one(node)
    if operand.shape is None or result.shape is None or list(operand.shape) != list(result.shape):
        return None
    if is_op(node, "Transpose"):
        order = node.attrs.get("perm") or list(reversed(range(len(operand.shape))))
        return operand if list(order) == sorted(order) else None
    if is_op(node, "Expand") and _is_assumed(result, assumed):
        return None
    if is_op(node, "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Tile"):
        return operand
    return None


def _times_one(node: gs.Node) -> Tensor | None:
    """The operand that is multiplied with 1, or divided by 1, in its own shape."""
    pairs = [tuple(node.inputs)] if is_op(node, "Div") else [tuple(node.inputs), tuple(reversed(node.inputs))]
    shape = node.outputs[0].shape
    for operand, factor in pairs:
        if shape is not None and operand.shape == shape and scalar_value(factor) == 1:
            return operand
    return None


def _is_assumed(tensor: Tensor, assumed: set[str]) -> bool:
    dims = [as_dim(size) for size in tensor.shape]
    return any(isinstance(dim, Dim) and dim.symbols & assumed for dim in dims)


def _merge_reshapes(edit: Editor, node: gs.Node) -> int:
    """Reshape(Reshape(x)) is one Reshape of x, where the target can be written as a constant."""
    inner = produced_by(node.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    if inner is None or inner.inputs[0].shape is None or node.outputs[0].shape is None:
        return 0
    source = tuple(as_dim(size) for size in inner.inputs[0].shape)
    target = constant_target(source, tuple(as_dim(size) for size in node.outputs[0].shape))
    if target is None:
        return 0
    node.inputs[0] = inner.inputs[0]
    node.inputs[1] = edit.constant(np.array(target, dtype=np.int64), f"{node.name}_target")
    node.attrs.pop("allowzero", None)
    return 1
