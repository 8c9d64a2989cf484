"""Turn Constant nodes into constants of the graph, so that every later pass knows one form only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, consumers, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

_NUMBERS = {"value_float": np.float32, "value_int": np.int64, "value_floats": np.float32, "value_ints": np.int64}


class ConvertConstants(Pass):
    """Constant nodes become constants; those that hold strings or sparse tensors stay."""

    name = "convert-constants"
    summary = "Hold the values of Constant nodes as constants of the graph."

    def run(self, model: Model) -> PassReport:
        """Convert every Constant node of the main graph that is not itself a graph output."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in model.graph.nodes:
            constant = _constant_of(node) if is_op(node, "Constant") else None
            if constant is None or edit.is_graph_output(node.outputs[0]):
                continue
            for reader in consumers(node.outputs[0]):
                for index, tensor in enumerate(reader.inputs):
                    if tensor is node.outputs[0]:
                        reader.inputs[index] = constant
            report.applied += 1
        edit.remove_unused()
        return report


def _constant_of(node: gs.Node) -> gs.Constant | None:
    name = node.outputs[0].name
    value: Any = node.attrs.get("value")
    if isinstance(value, gs.Constant):
        values = value._values  # keeps what is stored lazily where it is
        return gs.Constant(name, values, data_location=value.data_location)
    if isinstance(value, np.ndarray):
        return gs.Constant(name, value)
    for attribute, dtype in _NUMBERS.items():
        if attribute in node.attrs:
            return gs.Constant(name, np.array(node.attrs[attribute], dtype=dtype))
    return None
