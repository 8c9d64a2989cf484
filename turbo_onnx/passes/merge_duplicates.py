"""Compute once what is computed twice.

Exporters repeat the mask's and the positions' arithmetic for every layer, and store one number many times over.
Constants of up to 1 KiB count as equal when their values are; larger ones only when they are the same tensor, since
comparing weights would mean reading them all.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, subgraphs
from turbo_onnx.load_time import NOT_REPEATABLE
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

LARGEST_COMPARED = 1024  # bytes


class MergeDuplicates(Pass):
    """Nodes with the same operator, operands and attributes become one."""

    name = "merge-duplicates"
    summary = "Compute once what is computed several times."

    def run(self, model: Model) -> PassReport:
        """Number every value in topological order; a node whose number is known already is replaced."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        outputs = {id(tensor) for tensor in model.graph.outputs}
        seen: dict[Hashable, gs.Node] = {}
        for node in list(model.graph.nodes):
            key = _key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is node or any(id(tensor) in outputs for tensor in node.outputs):
                continue
            for old, new in zip(node.outputs, first.outputs, strict=True):
                edit.replace(old, new)
            report.applied += 1
        edit.remove_unused()
        return report


def _key(node: gs.Node) -> Hashable | None:
    if node.op in NOT_REPEATABLE or any(True for _ in subgraphs(node)):
        return None
    attributes = tuple(sorted((name, _attribute_key(value)) for name, value in node.attrs.items()))
    operands = tuple(_tensor_key(tensor) for tensor in node.inputs)
    results = tuple(tensor.is_empty() for tensor in node.outputs)
    return node.op, node.domain or "", attributes, operands, results


def _attribute_key(value: object) -> str:
    if isinstance(value, gs.Constant):
        return repr((str(value.dtype), list(value.shape), np.asarray(value.values).tobytes()))
    return repr(value)


def _tensor_key(tensor: Tensor) -> Hashable:
    if isinstance(tensor, gs.Constant):
        size = int(np.prod(tensor.shape)) * (
            np.dtype(tensor.dtype).itemsize if not isinstance(tensor.dtype, int) else 2
        )
        if size <= LARGEST_COMPARED:
            return str(tensor.dtype), tuple(tensor.shape), np.asarray(tensor.values).tobytes()
        return id(tensor)
    return "" if tensor.is_empty() else id(tensor)
