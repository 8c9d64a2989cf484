"""VarlenAttention: multi-head attention over packed sequences of different lengths, or over a padded batch.

DECISION on optional inputs and attributes: a function body cannot ask whether an input is there, so there is one body
for each form, and the second form in a model goes by the name `VarlenAttention_2`; see `functions.py`. Passes emit the
one operator `VarlenAttention` and leave absent inputs empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops.bodies import function
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec
from turbo_onnx.custom_ops.varlen_attention.body import body_text

_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")
_INPUTS = (
    Operand(
        "query",
        "T",
        "[T, H*D] or [B, S, H*D]",
        "The queries, column h*D+d for dimension d of head h. Without key and value it holds all three side by side, "
        "Q | K | V, and is three times as wide.",
    ),
    Operand("key", "T", "[T, H*D] or [B, L, H*D]", "The keys.", optional=True),
    Operand("value", "T", "[T, H*Dv] or [B, L, H*Dv]", "The values.", optional=True),
    Operand("bias", "T", "[2*H*D + H*Dv]", "Added to Q | K | V before anything else.", optional=True),
    Operand(
        "cu_seqlens",
        "tensor(int32)",
        "[B+1]",
        "Where each sequence starts in the packed rows, and at the end their number. Without it the rows are a batch "
        "of rank 3.",
        optional=True,
    ),
    Operand(
        "attention_bias",
        "TBias",
        "[B or 1, H or 1, S or 1, L or 1]",
        "Added to the scaled scores, in its own type: T, or float32 for numbers that T does not hold, such as -3.4e38. "
        "Only where there is no cu_seqlens.",
        optional=True,
    ),
)
_OUTPUTS = (Operand("output", "T", "[T, H*Dv] or [B, S, H*Dv]", "One row for each query."),)
_ATTRIBUTES = (
    Attribute("num_heads", None, "H.", int),
    Attribute("scale", None, "What the product of query and key is multiplied with.", float),
    Attribute("causal", 0, "1: query i sees the keys j <= i + L - S only (S = L within a packed sequence)."),
    Attribute("guard", 0, "1: a row whose softmax is NaN, since all its scores are -inf, gives zeros."),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    return function("VarlenAttention", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, body_text(opset, present, attributes))


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    query, key, value, bias, cu_seqlens, attention_bias = inputs
    assert query is not None
    if key is None or value is None:
        q, k, v = np.split(query.astype(np.float64), 3, axis=-1)
    else:
        q, k, v = (rows.astype(np.float64) for rows in (query, key, value))
    if bias is not None:
        width = q.shape[-1]
        bias = bias.astype(np.float64)
        q, k, v = q + bias[:width], k + bias[width : 2 * width], v + bias[2 * width :]
    if cu_seqlens is not None:
        output = np.zeros((q.shape[0], v.shape[-1]))
        for start, end in itertools.pairwise(cu_seqlens):
            rows = slice(int(start), int(end))
            output[rows] = _attend(q[None, rows], k[None, rows], v[None, rows], None, attributes)[0]
    else:
        output = _attend(q, k, v, attention_bias, attributes)
    return (output.astype(query.dtype),)


def _attend(q: Array, k: Array, v: Array, attention_bias: Array | None, attributes: Attributes) -> Array:
    """Attention in float64: q [B, S, H*D], k [B, L, H*D], v [B, L, H*Dv] -> [B, S, H*Dv]."""
    heads = int(attributes["num_heads"])

    def split(rows: Array) -> Array:
        batch, length, width = rows.shape
        return rows.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)

    (batch, queries, _), keys = q.shape, k.shape[1]
    if keys == 0:
        return np.zeros((batch, queries, v.shape[-1]))
    scores = split(q) @ split(k).swapaxes(-1, -2) * np.float64(np.float32(attributes["scale"]))
    if attention_bias is not None:
        scores = scores + attention_bias
    if attributes.get("causal", 0):
        seen = np.arange(keys) <= np.arange(queries)[:, None] + (keys - queries)
        scores = np.where(seen, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    if attributes.get("guard", 0):
        weights = np.where(np.isnan(weights), 0.0, weights)
    output: Array = (weights @ split(v)).transpose(0, 2, 1, 3).reshape(batch, queries, v.shape[-1])
    return output


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    query, value = shapes[0], shapes[2]
    if query is None:
        return (None,)
    return ((*query[:-1], value[-1] if value is not None else query[-1] // 3),)


SPEC = OperatorSpec(
    name="VarlenAttention",
    doc=(
        "output = softmax(scale * q k^T + attention_bias) v, for each head, where every token attends to the tokens of "
        "its own sequence. With cu_seqlens the sequences lie one after the other in the rows of query, key and value "
        "(packed); without it they are the rows of a batch, and queries and keys may differ in number (dense)."
    ),
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": _TYPES, "TBias": _TYPES},
    kernel_types={"T": ("tensor(float)",), "TBias": ("tensor(float)",)},
    or_float32={"TBias": "T"},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
