"""Gathers that take every element in order are no gathers: prove it, and write the plain view instead.

Newer model libraries index the mask with broadcast aranges. Two spellings reach the exporters' output: GatherND with
stacked index tensors, and Gather from the flattened mask at position b · S + s. Both only place the mask's axes among
axes of size 1, which is an Unsqueeze.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.dims import Dim, as_dim, as_item, product
from turbo_onnx.graph import Editor, Tensor, is_op, produced_by, remember_shape
from turbo_onnx.inference.movement import is_iota
from turbo_onnx.inference.reading import Dims
from turbo_onnx.inference.values import Affine, Stack
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.reshaping import unsqueezed
from turbo_onnx.passes.simplify_shapes import constant_target


class RemoveArangeGathers(Pass):
    """Gather and GatherND by proven aranges become Unsqueezes or Reshapes."""

    name = "remove-arange-gathers"
    summary = "Turn indexing by arange into plain broadcasting, where it is proven to be that."

    def run(self, model: Model) -> PassReport:
        """Replace each gather whose indices are known to walk through the data in order."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        facts = shapes.infer(model)
        _, proven = shapes.without_assumptions(model)
        for node in list(model.graph.nodes):
            if is_op(node, "Gather"):
                whole = _takes_all(node, facts) and (proven is None or _takes_all(node, proven))
                replacement = _plain_gather(edit, node, facts, model.opset) if whole else None
            elif is_op(node, "GatherND"):
                replacement = _plain_gather_nd(edit, node, facts, model.opset)
                if replacement is None and isinstance(facts[node.inputs[1]].value, Stack):
                    sentence = "its indices are aranges, but do not walk through every axis of the data in order"
                    report.rejected.append(Rejection(self.name, node.name, sentence))
            else:
                continue
            if replacement is not None:
                edit.replace(node.outputs[0], replacement)
                _remember(replacement, facts[node.outputs[0]].shape, facts)
                report.applied += 1
        edit.remove_unused()
        edit.sort()
        return report


def _remember(view: Tensor, shape: Dims | None, facts: shapes.Facts) -> None:
    """The indices say how long the data's axes are. Where nothing else does, nobody would know without the gather."""
    named = facts.symbols.inputs.keys()
    if not isinstance(view, gs.Variable) or shape is None:
        return
    if all(size.symbols <= named for size in shape if isinstance(size, Dim)):
        remember_shape(view, [as_item(size) for size in shape])


def _takes_all(node: gs.Node, facts: shapes.Facts) -> bool:
    """Whether the indices of a Gather walk through the axis in order, from one end to the other."""
    data, indices = facts[node.inputs[0]], facts[node.inputs[1]]
    if data.shape is None or indices.shape is None or not isinstance(indices.value, Affine):
        return False
    axis = node.attrs.get("axis", 0) % len(data.shape)
    return (
        product(indices.shape) == data.shape[axis]
        and indices.value.offset == 0
        and is_iota(indices.value, indices.shape)
    )


def _plain_gather(edit: Editor, node: gs.Node, facts: shapes.Facts, opset: int) -> Tensor | None:
    """The view that a Gather is which takes all."""
    shape, indices = facts[node.inputs[0]].shape, facts[node.inputs[1]].shape
    assert shape is not None
    assert indices is not None
    axis = node.attrs.get("axis", 0) % len(shape)
    return _reshaped(edit, node.inputs[0], shape, shape[:axis] + indices + shape[axis + 1 :], node, opset)


def _plain_gather_nd(edit: Editor, node: gs.Node, facts: shapes.Facts, opset: int) -> Tensor | None:
    data, indices = facts[node.inputs[0]], facts[node.inputs[1]]
    if data.shape is None or indices.shape is None or not isinstance(indices.value, Stack):
        return None
    if node.attrs.get("batch_dims", 0) or len(indices.value.parts) != len(data.shape):
        return None
    where = indices.shape[:-1]
    placed: list[Dim | int] = [1] * len(where)
    last = -1
    for part, size in zip(indices.value.parts, data.shape, strict=True):
        moving = [axis for axis, step in enumerate(part.coefficients) if step != 0]
        if not moving and part.offset == 0 and size == 1:
            continue
        if part.offset != 0 or len(moving) != 1 or part.coefficients[moving[0]] != 1 or moving[0] <= last:
            return None
        if where[moving[0]] != size:
            return None
        placed[moving[0]], last = size, moving[0]
    view = _reshaped(edit, node.inputs[0], data.shape, tuple(placed), node, opset)
    if view is None or tuple(placed) == where:
        return view
    return None  # also repeated along other axes: nothing that exporters write


def _reshaped(edit: Editor, source: Tensor, shape: Dims, result: Dims, node: gs.Node, opset: int) -> Tensor | None:
    new = _inserted(shape, result)
    target = constant_target(shape, result) if new is None else None
    if new is None and target is None:
        source, new, target = _from_unflattened(source, result)
    if new:  # where there is no sequence at all, a Reshape cannot work out a size
        return unsqueezed(edit, source, new, opset)
    if new is not None:
        target = [0] * len(result)
    if target is None:
        return None
    return edit.node(
        "Reshape",
        [source, edit.constant(np.array(target, dtype=np.int64), f"{node.name}_target")],
        hint=f"{node.name}_view",
        dtype=source.dtype,
        shape=[as_item(size) for size in result],
    )


def _inserted(shape: Dims, result: Dims) -> list[int] | None:
    """The axes of `result` that are new and of size 1, where the others are those of `shape`, in order."""
    new, taken = [], 0
    for axis, size in enumerate(result):
        if taken < len(shape) and size == shape[taken]:
            taken += 1
        elif size == 1:
            new.append(axis)
        else:
            return None
    return new if taken == len(shape) else None


def _from_unflattened(source: Tensor, result: Dims) -> tuple[Tensor, list[int] | None, list[int] | None]:
    """Where the data was flattened before, start from the tensor that still had its axes: new ones, or a target."""
    view = produced_by(source, "Flatten", "Reshape")
    while view is not None and view.inputs[0].shape is not None:
        origin = view.inputs[0]
        shape = tuple(as_dim(size) for size in origin.shape)
        new = _inserted(shape, result)
        target = constant_target(shape, result) if new is None else None
        if new is not None or target is not None:
            return origin, new, target
        view = produced_by(origin, "Flatten", "Reshape")
    return source, None, None
