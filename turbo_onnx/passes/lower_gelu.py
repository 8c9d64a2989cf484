"""Write every raised Gelu that nothing fused with the primitive operators that the model's opset has."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.passes.lowering import Lowering


class LowerGelu(Lowering):
    """Turn `turbo_onnx.raised.Gelu` back into Erf or Tanh and what is around it."""

    name = "lower-gelu"
    summary = "Write raised Gelu operators with the primitives that the model's opset has."
    operator = "Gelu"

    def lowered(self, edit: Editor, node: gs.Node, opset: int) -> Tensor:
        lower = _tanh_form if node.attrs.get("approximate", "none") == "tanh" else _erf_form
        return lower(edit, node.inputs[0])


def _erf_form(edit: Editor, x: Tensor) -> Tensor:
    """0.5 x (1 + erf(x / √2))."""
    scaled = _binary(edit, "Div", x, math.sqrt(2.0))
    shifted = _binary(edit, "Add", _unary(edit, "Erf", scaled), 1.0)
    return _binary(edit, "Mul", edit.node("Mul", [x, shifted], dtype=x.dtype, shape=x.shape), 0.5)


def _tanh_form(edit: Editor, x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    square = edit.node("Mul", [x, x], dtype=x.dtype, shape=x.shape)
    cube = edit.node("Mul", [square, x], dtype=x.dtype, shape=x.shape)
    inner = edit.node("Add", [x, _binary(edit, "Mul", cube, 0.044715)], dtype=x.dtype, shape=x.shape)
    shifted = _binary(edit, "Add", _unary(edit, "Tanh", _binary(edit, "Mul", inner, math.sqrt(2.0 / math.pi))), 1.0)
    return _binary(edit, "Mul", edit.node("Mul", [x, shifted], dtype=x.dtype, shape=x.shape), 0.5)


def _unary(edit: Editor, op: str, x: Tensor) -> Tensor:
    return edit.node(op, [x], dtype=x.dtype, shape=x.shape)


def _binary(edit: Editor, op: str, x: Tensor, number: float) -> Tensor:
    value = edit.constant(np.array(number, np.dtype(x.dtype or np.float32)), "gelu_number")
    return edit.node(op, [x, value], dtype=x.dtype, shape=x.shape)
