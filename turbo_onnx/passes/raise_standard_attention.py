"""Bring the standard Attention operator (opset 23) to the raised form, where that says the same and can be fused."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none
from turbo_onnx.passes.attention_bias import BiasBuilder, BiasStep
from turbo_onnx.passes.attention_scores import Added, Replaced
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.passes.reshaping import reshaped, transposed

_HEADS_LAST = (0, 2, 1, 3)


def raise_standard_attention(edit: Editor, biases: BiasBuilder, node: gs.Node) -> None:
    """Replace the node by a raised Attention, of 4-D operands.

    A row that sees nothing gives zeros: that is how onnxruntime defines it for this operator.

    Raises:
        Reject: the node uses what the raised form does not have, or would not be fused.
    """
    if any(tensor.outputs for tensor in node.outputs[1:]) or any(
        input_or_none(node, index) is not None for index in (4, 5, 6)
    ):
        raise Reject("it has a cache of keys and values, or more than one result")
    if node.attrs.get("softcap", 0.0) != 0.0:
        raise Reject("it caps its scores softly at {}", node.attrs["softcap"])
    if node.attrs.get("softmax_precision", 1) not in (0, 1):
        raise Reject("its softmax_precision is {}", node.attrs["softmax_precision"])
    query, key, value = node.inputs[:3]
    if any(tensor.dtype != np.float32 or tensor.shape is None for tensor in (query, key, value)):
        raise Reject("its operands are not float32 of known rank, which is what has a kernel")
    flat = len(query.shape) == 3
    if flat:
        heads = [node.attrs.get(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
        q, k, v = (_split(edit, t, h) for t, h in zip((query, key, value), heads, strict=True))
    else:
        q, k, v = query, key, value
    batch, number, rows, size = q.shape
    groups, columns = k.shape[1:3]
    if not all(isinstance(known, int) for known in (number, size, v.shape[3])):
        raise Reject("the number or size of its heads is not known: {} and {}", q.shape, v.shape)
    if k.shape[0] != batch or k.shape[:2] != v.shape[:2]:
        raise Reject("its queries {}, keys {} and values {} do not fit together", q.shape, k.shape, v.shape)
    if not isinstance(groups, int) or groups < 1 or number % groups:
        raise Reject("its {} heads of queries cannot share {} heads of keys", number, groups)
    causal = int(node.attrs.get("is_causal", 0))
    if causal and rows != columns:
        raise Reject("it is causal from {} queries to {} keys, and where their ends meet is not known", rows, columns)
    result = edit.node(
        "Attention",
        [q, k, v, _bias(biases, input_or_none(node, 3), [batch, number, rows, columns])],
        domain=RAISED_DOMAIN,
        attrs={"scale": float(node.attrs.get("scale", 1.0 / math.sqrt(size))), "guard": 1, "causal": causal},
        hint=f"{node.name}_attention",
        dtype=query.dtype,
        shape=[batch, number, rows, v.shape[3]],
    )
    if flat:
        merged = transposed(edit, result, _HEADS_LAST)
        width = number * v.shape[3]
        result = reshaped(edit, merged, [0, 0, width], [batch, rows, width])
    edit.replace(node.outputs[0], result)


def _split(edit: Editor, tensor: Tensor, heads: int | None) -> Tensor:
    """[B, S, H*D] as [B, H, S, D]."""
    batch, rows, width = tensor.shape
    if not heads or not isinstance(width, int):
        raise Reject("{} {} cannot be split into {} heads", tensor.name, tensor.shape, heads)
    size = width // heads
    return transposed(edit, reshaped(edit, tensor, [0, 0, heads, size], [batch, rows, heads, size]), _HEADS_LAST)


def _bias(biases: BiasBuilder, mask: Tensor | None, scores: list[int | str]) -> Tensor | None:
    """The mask as an additive bias of rank 4."""
    if mask is None:
        return None
    shape = mask.shape
    fits = shape is not None and all(a in (1, b) for a, b in zip(reversed(shape), reversed(scores), strict=False))
    if not fits or shape[-1] != scores[-1]:
        raise Reject("its mask {} {} is not known to broadcast to scores {}", mask.name, shape, scores)
    plan: list[BiasStep] = [(Replaced(mask, -np.inf, keeps=True) if mask.dtype == np.bool_ else Added(mask), 4)]
    return biases.build(plan, None, np.dtype(np.float32))
