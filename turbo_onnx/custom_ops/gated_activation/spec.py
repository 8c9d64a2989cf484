"""GatedActivation: the gate of a feed-forward layer, its activation and what it lets through, with their biases.

The method is that of Dauphin, Fan, Auli and Grangier, "Language Modeling with Gated Convolutional Networks" (2017),
with the activations of Shazeer, "GLU Variants Improve Transformer" (2020): GeGLU, SwiGLU, ReGLU and GLU itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import activations
from turbo_onnx.custom_ops.bodies import function
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("x", "T", "[..., 2N] or [..., N]", "Gate | up side by side, or where up is given the gate."),
    Operand("up", "T", "[..., N]", "What the gate lets through, where x does not hold it.", optional=True),
    Operand("bias", "T", "[2N]", "Added to gate | up, in the order of the columns of x.", optional=True),
)
_OUTPUTS = (Operand("output", "T", "[..., N]", "activation(gate) * up."),)
_ATTRIBUTES = (
    Attribute("activation", "gelu", 'Of the gate: "gelu", "gelu_tanh" (Φ approximated), "silu", "relu" or "sigmoid".'),
    Attribute("gate_last", 0, "Whether x is up | gate. Must be 0 where up is given."),
)
_NUM_OUTPUTS_OPSET = 18


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    parts = "up_half, gate_half" if attributes["gate_last"] else "gate_half, up_half"
    if "up" in present:
        text = _with_biases(opset) if "bias" in present else "gate_half = Identity (x)\nup_half = Identity (up)\n"
    elif "bias" in present:
        text = f"total = Add (x, bias)\n{_halves(opset, parts, 'total', -1)}"
    else:
        text = _halves(opset, parts, "x", -1)
    text += activations.body(opset, str(attributes["activation"]), "activated", "gate_half")
    return function(
        "GatedActivation", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, f"{text}output = Mul (activated, up_half)\n"
    )


def _with_biases(opset: int) -> str:
    return f"""
        {_halves(opset, "gate_bias, up_bias", "bias", 0)}
        gate_half = Add (x, gate_bias)
        up_half = Add (up, up_bias)
    """


def _halves(opset: int, outputs: str, x: str, axis: int) -> str:
    count = ", num_outputs = 2" if opset >= _NUM_OUTPUTS_OPSET else ""
    return f"{outputs} = Split <axis = {axis}{count}> ({x})\n"


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    x, up, bias = inputs
    assert x is not None
    columns = (x if up is None else np.concatenate([x, up], axis=-1)).astype(np.float64)
    if bias is not None:
        columns = columns + bias.astype(np.float64)
    first, second = np.split(columns, 2, axis=-1)
    gate, through = (second, first) if attributes["gate_last"] else (first, second)
    return ((activations.reference(str(attributes["activation"]), gate) * through).astype(x.dtype),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    x, up = shapes[0], shapes[1]
    if x is None or up is not None:
        return (x,)
    return ((*x[:-1], x[-1] // 2),)


SPEC = OperatorSpec(
    name="GatedActivation",
    doc="output = activation(gate) * up, where gate and up are the halves of the rows x + bias, or two tensors.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")},
    kernel_types={"T": ("tensor(float)",)},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
