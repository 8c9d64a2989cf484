"""Which tokens an optimized model takes for real, where it computes its mask itself from ids or lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import is_ours
from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model
from turbo_onnx.sessions import open_session

Array = np.ndarray[Any, Any]
ReadMask = Callable[[Mapping[str, Array]], Array]


def computed_mask(model: Model) -> ReadMask | None:
    """What computes the mask [B, S] of a packed model from the model's inputs; None for a model that is not packed.

    Only the part of the graph that leads to the mask is run, in stock ONNX Runtime.
    """
    entry = next((node for node in model.graph.nodes if node.op == "RemovePadding" and is_ours(node.domain)), None)
    if entry is None:
        return None
    mask = entry.inputs[0]
    nodes, inputs = _what_leads_to(mask, model.graph)
    part = gs.Graph(nodes, inputs, [mask], opset=model.opset, import_domains=model.graph.import_domains)
    session = open_session(Model.from_graph(part, model.shell).to_proto().SerializeToString(), level="none")
    names = [entry.name for entry in session.get_inputs()]

    def read(feed: Mapping[str, Array]) -> Array:
        (result,) = session.run(None, {name: feed[name] for name in names})
        return np.asarray(result)

    return read


def _what_leads_to(tensor: gs.Variable, graph: gs.Graph) -> tuple[list[gs.Node], list[gs.Variable]]:
    needed: set[int] = set()
    read: set[int] = {id(tensor)}
    stack = list(tensor.inputs)
    while stack:
        node = stack.pop()
        if id(node) in needed:
            continue
        needed.add(id(node))
        scopes = [node.inputs, *(inner.inputs for branch in subgraphs(node) for inner in branch.nodes)]
        for operand in (operand for scope in scopes for operand in scope):
            read.add(id(operand))
            stack.extend(operand.inputs)
    nodes = [node for node in graph.nodes if id(node) in needed]
    return nodes, [entry for entry in graph.inputs if id(entry) in read]
