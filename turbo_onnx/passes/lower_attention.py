"""Write every raised Attention that nothing fused with the primitive operators that every opset has."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, input_or_none
from turbo_onnx.passes.lowering import Lowering
from turbo_onnx.passes.reshaping import reshaped, transposed, unsqueezed


class LowerAttention(Lowering):
    """Turn `turbo_onnx.raised.Attention` back into MatMul, Softmax and what is around them."""

    name = "lower-attention"
    summary = "Write raised Attention operators with the primitives that the model's opset has."
    operator = "Attention"

    def lowered(self, edit: Editor, node: gs.Node, opset: int) -> Tensor:
        return _lowered(edit, node, opset)


def _lowered(edit: Editor, node: gs.Node, opset: int) -> Tensor:
    """softmax(scale · Q Kᵀ + bias) V, the scores capped in between if they are to be."""
    query, key, value = node.inputs[0], *(_for_all_heads(edit, node, index, opset) for index in (1, 2))
    bias = input_or_none(node, 3)
    dtype = np.dtype(query.dtype or np.float32)
    rows = None if query.shape is None or key.shape is None else [*query.shape[:3], key.shape[2]]
    scale = float(node.attrs["scale"])
    if scale != 1.0:
        number = edit.constant(np.array(scale, dtype), "attention_scale")
        query = edit.node("Mul", [query, number], dtype=dtype, shape=query.shape)
    scores = edit.node("MatMul", [query, transposed(edit, key, (0, 1, 3, 2))], dtype=dtype, shape=rows)
    softcap = float(node.attrs.get("softcap", 0.0))
    if softcap:
        limit = edit.constant(np.array(softcap, dtype), "attention_softcap")
        for operator, *operand in (("Div", limit), ("Tanh",), ("Mul", limit)):
            scores = edit.node(operator, [scores, *operand], dtype=dtype, shape=rows)
    if bias is not None:
        scores = edit.node("Add", [scores, bias], dtype=dtype, shape=rows)
    if node.attrs.get("causal", 0):
        scores = edit.node("Add", [scores, _causal_bias(edit, scores, dtype, opset)], dtype=dtype, shape=rows)
    probabilities = _softmax(edit, scores, int(node.attrs.get("softmax_precision", 0)), opset)
    if node.attrs.get("guard", 0):
        nothing = edit.node("IsNaN", [probabilities], dtype=np.dtype(np.bool_), shape=rows)
        zero = edit.constant(np.array(0, dtype), "zero")
        probabilities = edit.node("Where", [nothing, zero, probabilities], dtype=dtype, shape=rows)
    return edit.node(
        "MatMul", [probabilities, value], hint=node.name, dtype=node.outputs[0].dtype, shape=node.outputs[0].shape
    )


def _for_all_heads(edit: Editor, node: gs.Node, index: int, opset: int) -> Tensor:
    """Keys or values [B, G, L, D] with each head repeated for all heads of queries that share it, [B, H, L, D].

    One head is broadcast by the products themselves.
    """
    query, shared = node.inputs[0], node.inputs[index]
    if query.shape is None or shared.shape is None or shared.shape[1] in (1, query.shape[1]):
        return shared
    batch, groups, rows, size = shared.shape
    times = query.shape[1] // groups
    apart = unsqueezed(edit, shared, [2], opset)
    target = edit.constant(np.array([1, 1, times, 1, 1], np.int64), "repeated_shape")
    repeated = edit.node("Expand", [apart, target], dtype=shared.dtype, shape=[batch, groups, times, rows, size])
    return reshaped(edit, repeated, [0, groups * times, -1, size], [batch, groups * times, rows, size])


def _softmax(edit: Editor, scores: Tensor, precision: int, opset: int) -> Tensor:
    """Softmax over the last axis, in the floating-point type `precision` (an onnx number) where it is not 0."""
    attrs = {"axis": -1 if opset >= 13 else 3}
    dtype, shape = scores.dtype, scores.shape
    if precision == 0:
        return edit.node("Softmax", [scores], attrs=attrs, dtype=dtype, shape=shape)
    inner = onnx.helper.tensor_dtype_to_np_dtype(precision)
    wide = edit.node("Cast", [scores], attrs={"to": precision}, dtype=inner, shape=shape)
    result = edit.node("Softmax", [wide], attrs=attrs, dtype=inner, shape=shape)
    back = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    return edit.node("Cast", [result], attrs={"to": back}, dtype=dtype, shape=shape)


def _causal_bias(edit: Editor, scores: Tensor, dtype: np.dtype, opset: int) -> Tensor:
    """[S, L] with -inf where query i may not see key j: j > i + (L - S)."""
    integer = np.dtype(np.int64)
    size = edit.node("Shape", [scores], dtype=integer, shape=[4])
    zero, one = (edit.constant(np.array(number, np.int64), "index") for number in (0, 1))
    lengths = []
    for axis in (2, 3):
        where = edit.constant(np.array(axis, np.int64), "index")
        lengths.append(edit.node("Gather", [size, where], attrs={"axis": 0}, dtype=integer, shape=[]))
    difference = edit.node("Sub", [lengths[1], lengths[0]], dtype=integer, shape=[])
    columns = edit.node("Range", [zero, lengths[1], one], dtype=integer)
    rows = edit.node("Range", [difference, lengths[1], one], dtype=integer)
    later = edit.node("Greater", [columns, unsqueezed(edit, rows, [1], opset)], dtype=np.dtype(np.bool_))
    choices = [edit.constant(np.array(number, dtype), "mask_value") for number in (-np.inf, 0.0)]
    return edit.node("Where", [later, *choices], dtype=dtype)
