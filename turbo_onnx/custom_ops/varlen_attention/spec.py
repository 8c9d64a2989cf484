"""VarlenAttention: multi-head attention over packed sequences of different lengths, or over a padded batch.

DECISION on optional inputs and attributes: a function body cannot ask whether an input is there, so there is one body
for each form, and the second form in a model goes by the name `VarlenAttention_2`; see `functions.py`. Passes emit the
one operator `VarlenAttention` and leave absent inputs empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from turbo_onnx.custom_ops.bodies import function
from turbo_onnx.custom_ops.specification import Attribute, Attributes, Dim, Dims, Operand, OperatorSpec
from turbo_onnx.custom_ops.varlen_attention.body import body_text
from turbo_onnx.custom_ops.varlen_attention.reference import reference
from turbo_onnx.custom_ops.varlen_attention.window import key_heads

_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")
_INPUTS = (
    Operand(
        "query",
        "T",
        "[T, H*D] or [B, S, H*D]",
        "The queries, column h*D+d for dimension d of head h. Without key and value it holds all three side by side, "
        "Q | K | V, in (H + 2*G) * D columns.",
    ),
    Operand("key", "T", "[T, G*D], [B, L, G*D] or [B, G, L, D]", "The keys.", optional=True),
    Operand("value", "T", "[T, G*Dv], [B, L, G*Dv] or [B, G, L, Dv]", "The values.", optional=True),
    Operand("bias", "T", "[H*D + G*D + G*Dv]", "Added to Q | K | V before anything else.", optional=True),
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
    Operand(
        "positions",
        "tensor(int64)",
        "[T]",
        "Where each row stands in its sequence, strictly ascending within it and less than 2^30 apart, for the "
        "distances that windows are about. Only with cu_seqlens; without it the rows of a sequence stand side by side.",
        optional=True,
    ),
)
_OUTPUTS = (Operand("output", "T", "[T, H*Dv] or [B, S, H*Dv]", "One row for each query."),)
_ATTRIBUTES = (
    Attribute("num_heads", None, "H.", int),
    Attribute("scale", None, "What the product of query and key is multiplied with.", float),
    Attribute("causal", 0, "1: no query sees keys that stand behind it."),
    Attribute("guard", 0, "1: a row whose softmax is NaN, since all its scores are -inf, gives zeros."),
    Attribute(
        "kv_num_heads",
        0,
        "G, of which H is a multiple: head h of the queries reads head h // (H / G) of keys and values. 0: H.",
    ),
    Attribute("window_before", -1, "How many positions before its own a query sees. -1: all."),
    Attribute("window_after", -1, "How many positions after its own a query sees, where causal is 0. -1: all."),
    Attribute(
        "softcap",
        0.0,
        "c: the scaled scores s are c * tanh(s / c), between -c and c, before attention_bias is added. 0: they are s.",
    ),
    Attribute(
        "keys_by_head",
        0,
        "1: key and value are [B, G, L, D] and [B, G, L, Dv], as caches hold them. Only where there is no cu_seqlens.",
    ),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    return function("VarlenAttention", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, body_text(opset, present, attributes))


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    query, value = shapes[0], shapes[2]
    if query is None:
        return (None,)
    heads, shared = int(attributes["num_heads"]), key_heads(attributes)
    if value is None:
        width = query[-1] // 3 if shared == heads else query[-1] // (heads + 2 * shared) * heads
    elif attributes["keys_by_head"]:
        width = value[-1] * heads
    else:
        width = value[-1] if shared == heads else value[-1] // shared * heads
    return ((*query[:-1], width),)


def _same_sizes(shapes: Sequence[Dims | None]) -> list[tuple[Dim, Dim]]:
    """Of keys and values: all but the widths."""
    key, value = shapes[1:3]
    return [] if key is None or value is None else list(zip(key[:-1], value[:-1], strict=True))


SPEC = OperatorSpec(
    name="VarlenAttention",
    doc=(
        "output = softmax(scale * q k^T + attention_bias) v, for each head, where every token attends to the tokens of "
        "its own sequence. With cu_seqlens the sequences lie one after the other in the rows of query, key and value "
        "(packed); without it they are the rows of a batch, and queries and keys may differ in number (dense): then "
        "query i stands at position i + L - S, and key j at j. A query at position p sees keys at positions from "
        "p - window_before to p + window_after only. With softcap the scaled scores are bounded before attention_bias "
        "is added (Bello et al., 'Neural Combinatorial Optimization with Reinforcement Learning', 2016)."
    ),
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": _TYPES, "TBias": _TYPES},
    kernel_types={"T": ("tensor(float)",), "TBias": ("tensor(float)",)},
    or_float32={"TBias": "T"},
    body=_body,
    reference=reference,
    output_shapes=_output_shapes,
    same_sizes=_same_sizes,
    forms=6,
)
