"""The function bodies that every artifact carries, so that it runs where our library is not installed."""

from __future__ import annotations

import onnx

from turbo_onnx.custom_ops.specification import DOMAIN

FUNCTIONS_SINCE_IR = 8


def needed_functions(graph: onnx.GraphProto, opset: int) -> list[onnx.FunctionProto]:
    """The bodies of all operators of ours that the graph uses, for the standard opset that it imports."""
    if not _uses_ours(graph):
        return []
    from turbo_onnx import custom_ops

    return list(custom_ops.functions(graph, opset))


def _uses_ours(graph: onnx.GraphProto) -> bool:
    return any(
        node.domain == DOMAIN or any(_uses_ours(attribute.g) for attribute in node.attribute if attribute.HasField("g"))
        for node in graph.node
    )
