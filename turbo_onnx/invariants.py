"""What must be true of a graph between any two passes; checked in tests and with `checks=True`."""

from __future__ import annotations

import hashlib

import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model
from turbo_onnx.serialization.checking import with_shapes
from turbo_onnx.serialization.exporting import element_type


class BrokenGraphError(Exception):
    """An invariant does not hold. The message names the node."""


def check(model: Model) -> None:
    """Check that the graph is sorted, that its edges agree with each other, and that ONNX's checker takes it.

    Raises:
        BrokenGraphError: it is not so.
    """
    _check_graph(model.graph, set())
    try:
        onnx.checker.check_model(skeleton(model))
    except onnx.checker.ValidationError as error:
        raise BrokenGraphError(" ".join(str(error).split())) from None


def skeleton(model: Model) -> onnx.ModelProto:
    """The model as a valid proto in which every top-level constant is an input."""
    proto, weights = model.without_weights()
    for name, constant in weights.items():
        kind = element_type(constant.dtype)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [int(d) for d in constant.shape]))
    return with_shapes(proto)


def fingerprint(model: Model) -> str:
    """Equal for graphs that are written the same, weights' values aside."""
    proto, weights = model.without_weights()
    sha = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for name, constant in weights.items():
        sha.update(f"{name} {constant.dtype} {list(constant.shape)}".encode())
    return sha.hexdigest()


def _check_graph(graph: gs.Graph, outer: set[int]) -> None:
    known = outer | {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Variable) and not tensor.is_empty() and id(tensor) not in known:
                raise BrokenGraphError(
                    f"node '{node.name}' ({node.op}) reads '{tensor.name}', which nothing before it computes"
                )
            if not any(reader is node for reader in tensor.outputs):
                raise BrokenGraphError(f"tensor '{tensor.name}' does not know its reader '{node.name}'")
        for subgraph in subgraphs(node):
            _check_graph(subgraph, known)
        for tensor in node.outputs:
            if not tensor.is_empty() and (len(tensor.inputs) != 1 or tensor.inputs[0] is not node):
                raise BrokenGraphError(f"tensor '{tensor.name}' does not know its producer '{node.name}'")
            known.add(id(tensor))
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Variable) and id(tensor) not in known:
            raise BrokenGraphError(f"graph output '{tensor.name}' is computed by nothing")
