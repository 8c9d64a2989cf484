"""Write every raised RMSNormalization that nothing fused with the primitive operators that the model's opset has.

The chain is the one that ONNX Runtime makes one operator of when it loads a model.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.bodies import REDUCTION_AXES_INPUT_OPSET
from turbo_onnx.graph import Editor, Tensor, scalar_value
from turbo_onnx.passes.lowering import Lowering


class LowerRmsNormalization(Lowering):
    """Turn `turbo_onnx.raised.RMSNormalization` back into Pow, ReduceMean, Sqrt and what is around them."""

    name = "lower-rms-normalization"
    summary = "Write raised RMSNormalization operators with the primitives that the model's opset has."
    operator = "RMSNormalization"

    def lowered(self, edit: Editor, node: gs.Node, opset: int) -> Tensor:
        return _lowered(edit, node, opset)


def _lowered(edit: Editor, node: gs.Node, opset: int) -> Tensor:
    """Return x / sqrt(mean(x²) + epsilon) · scale, over the last axis."""
    x, scale = node.inputs
    dtype = np.dtype(x.dtype or np.float32)
    shape = x.shape
    column = None if shape is None else [*shape[:-1], 1]
    two = edit.constant(np.array(2, dtype), "two")
    squares = edit.node("Pow", [x, two], hint=node.name, dtype=dtype, shape=shape)
    last, operands = {"axes": [-1]}, [squares]
    if opset >= REDUCTION_AXES_INPUT_OPSET:
        last, operands = {}, [squares, edit.constant(np.array([-1], np.int64), "last_axis")]
    mean = edit.node("ReduceMean", operands, attrs={**last, "keepdims": 1}, hint=node.name, dtype=dtype, shape=column)
    epsilon = edit.constant(np.array(node.attrs["epsilon"], dtype), "epsilon")
    shifted = edit.node("Add", [mean, epsilon], hint=node.name, dtype=dtype, shape=column)
    root = edit.node("Sqrt", [shifted], hint=node.name, dtype=dtype, shape=column)
    normal = edit.node("Div", [x, root], hint=node.name, dtype=dtype, shape=shape)
    if scalar_value(scale) == 1:
        return normal
    return edit.node("Mul", [normal, scale], hint=node.name, dtype=dtype, shape=shape)
