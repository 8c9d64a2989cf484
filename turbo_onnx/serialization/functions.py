"""The function bodies that every artifact carries, so that it runs where our library is not installed."""

from __future__ import annotations

import onnx

from turbo_onnx.custom_ops.specification import is_ours
from turbo_onnx.serialization.checking import nodes_of


def attach_functions(proto: onnx.ModelProto) -> None:
    """Add the functions that define the operators of ours which the model uses."""
    if not any(is_ours(node.domain) for node in nodes_of(proto.graph)):
        return
    from turbo_onnx import custom_ops
    from turbo_onnx.custom_ops import functions

    functions.attach(proto, {spec.name: spec for spec in custom_ops.SPECS})
