"""The function bodies that every artifact carries, so that it runs where our library is not installed."""

from __future__ import annotations

import onnx
from onnx import helper

from turbo_onnx.custom_ops import begin_run
from turbo_onnx.custom_ops.functions import FUNCTIONS_IR_VERSION
from turbo_onnx.custom_ops.specification import DOMAIN_VERSION, is_ours
from turbo_onnx.serialization.checking import nodes_of


def attach_functions(proto: onnx.ModelProto) -> None:
    """Add the functions that define the operators of ours which the model uses."""
    _attach_begin_run(proto)
    if not any(is_ours(node.domain) for node in nodes_of(proto.graph)):
        return
    from turbo_onnx import custom_ops
    from turbo_onnx.custom_ops import functions

    functions.attach(proto, {spec.name: spec for spec in custom_ops.SPECS})


def _attach_begin_run(proto: onnx.ModelProto) -> None:
    node = next(filter(begin_run.begins_run, nodes_of(proto.graph)), None)
    if node is None:
        return
    kept = [function for function in proto.functions if function.domain != begin_run.PLAN_DOMAIN]
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    del proto.functions[:]
    proto.functions.extend([*kept, begin_run.function(len(node.input), opset)])
    if begin_run.PLAN_DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(begin_run.PLAN_DOMAIN, DOMAIN_VERSION))
    proto.ir_version = max(proto.ir_version, FUNCTIONS_IR_VERSION)
