"""Pick elements before axes change places instead of after.

    x ─Transpose─▶ ─Gather along an axis─▶ ─Transpose─▶   becomes   x ─Gather along its own axis─▶ ─Transpose─▶

Indexing with a list is exported as one Transpose that brings the axis to the front, GatherND there, and another that
brings it back. What is picked is the smaller tensor to transpose, and the two Transposes behind each other are one.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, consumers, is_op, produced_by
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.reshaping import transposed


class GatherBeforeTransposing(Pass):
    """Gathers by a constant list of indices read what was transposed before them."""

    name = "gather-before-transposing"
    summary = "Pick elements before axes change places."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            transpose = produced_by(node.inputs[0], "Transpose") if is_op(node, "Gather", "GatherND") else None
            if transpose is None or not _all_pick(edit, transpose.outputs[0]):
                continue
            picked = _picked(edit, node, transpose)
            for reader in consumers(node.outputs[0]):
                if is_op(reader, "Transpose") and reader.attrs.get("perm"):
                    edit.replace(reader.outputs[0], transposed(edit, picked, reader.attrs["perm"]))
            edit.replace(node.outputs[0], picked)
            report.applied += 1
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _all_pick(edit: Editor, tensor: Tensor) -> bool:
    """Whether nothing but gathers by lists of indices reads the tensor, so that its Transpose goes."""
    if tensor.shape is None or edit.is_graph_output(tensor):
        return False
    return all(reader.inputs[0] is tensor and _indices(reader) is not None for reader in consumers(tensor))


def _indices(node: gs.Node) -> np.ndarray | None:
    """The list of indices along one axis by which the node gathers."""
    if not is_op(node, "Gather", "GatherND") or not isinstance(node.inputs[1], gs.Constant):
        return None
    indices: np.ndarray = node.inputs[1].values
    if node.op == "Gather":
        return indices if indices.ndim == 1 else None
    plain = indices.ndim == 2 and indices.shape[1] == 1 and not node.attrs.get("batch_dims", 0)
    return indices[:, 0] if plain else None


def _picked(edit: Editor, node: gs.Node, transpose: gs.Node) -> Tensor:
    """What the node gives, picked first."""
    source, result, indices = transpose.inputs[0], node.outputs[0], _indices(node)
    assert indices is not None
    rank = len(transpose.outputs[0].shape)
    order = tuple(transpose.attrs.get("perm") or reversed(range(rank)))
    axis = order[int(node.attrs.get("axis", 0)) % rank if node.op == "Gather" else 0]
    shape = None if source.shape is None else [*source.shape[:axis], len(indices), *source.shape[axis + 1 :]]
    picked = edit.node("Gather", [source, edit.constant(indices, f"{node.name}_indices")], attrs={"axis": axis},
                       hint=node.name, dtype=result.dtype, shape=shape)  # fmt: skip
    return transposed(edit, picked, order)
