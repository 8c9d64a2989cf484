"""BeginRun: the node that all inputs of a planned model pass, so that it runs before everything else.

It moves nothing: each output is its input, in the same memory. What it does is to tell the library's allocator that a
run of this plan begins, and at which sizes. It is not declared as the other operators are, since it has as many
operands as the model has inputs, of any types.
"""

from __future__ import annotations

import onnx
from onnx import helper

PLAN_DOMAIN = "turbo_onnx.plan"
BEGIN_RUN = "BeginRun"
PLAN_ATTRIBUTE = "plan"
MOST_OPERANDS = 1024
"""The library tells ONNX Runtime of so many pairs that share memory."""


def begins_run(node: onnx.NodeProto) -> bool:
    """Whether this is the node."""
    return bool(node.domain == PLAN_DOMAIN and node.op_type == BEGIN_RUN)


def function(operands: int, opset: int) -> onnx.FunctionProto:
    """What the node computes where the library is not: nothing.

    Args:
        operands: how many inputs it has, and outputs.
        opset: version of the standard operators.
    """
    inputs, outputs = ([f"{what}{number}" for number in range(operands)] for what in ("input", "output"))
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in zip(inputs, outputs, strict=True)]
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(PLAN_DOMAIN, BEGIN_RUN, inputs, outputs, nodes, opsets, [PLAN_ATTRIBUTE])
