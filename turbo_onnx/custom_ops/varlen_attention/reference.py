"""VarlenAttention in NumPy, in float64 inside: what every kernel is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from turbo_onnx.custom_ops.specification import Array, Attributes
from turbo_onnx.custom_ops.varlen_attention.window import key_heads, window_of


def reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    """The output of the operator for its inputs, None for those that are absent."""
    query, key, value, bias, cu_seqlens, attention_bias, positions = inputs
    assert query is not None
    if key is None or value is None:
        heads, shared = int(attributes["num_heads"]), key_heads(attributes)
        size = query.shape[-1] // (heads + 2 * shared)
        q, k, v = np.split(query.astype(np.float64), [heads * size, (heads + shared) * size], axis=-1)
    else:
        if attributes.get("keys_by_head", 0):
            key, value = (_as_rows(heads) for heads in (key, value))
        q, k, v = (rows.astype(np.float64) for rows in (query, key, value))
    if bias is not None:
        of_q, of_k, of_v = np.split(bias.astype(np.float64), np.cumsum([q.shape[-1], k.shape[-1]]))
        q, k, v = q + of_q, k + of_k, v + of_v
    if cu_seqlens is not None:
        sequences = []
        for start, end in itertools.pairwise(cu_seqlens):
            rows = slice(int(start), int(end))
            where = np.arange(end - start) if positions is None else positions[rows]
            sequences.append(_attend(q[None, rows], k[None, rows], v[None, rows], None, where, where, attributes)[0])
        output = np.concatenate([np.zeros((0, _output_width(v, attributes))), *sequences])
    else:
        queries, keys = q.shape[1], k.shape[1]
        at = np.arange(queries) + keys - queries
        output = _attend(q, k, v, attention_bias, at, np.arange(keys), attributes)
    return (output.astype(query.dtype),)


def _as_rows(heads: Array) -> Array:
    """[B, G, L, D] as [B, L, G*D]."""
    batch, shared, keys, size = heads.shape
    return heads.transpose(0, 2, 1, 3).reshape(batch, keys, shared * size)


def _output_width(v: Array, attributes: Attributes) -> int:
    return int(v.shape[-1]) // key_heads(attributes) * int(attributes["num_heads"])


def _attend(
    q: Array,
    k: Array,
    v: Array,
    attention_bias: Array | None,
    query_positions: Array,
    key_positions: Array,
    attributes: Attributes,
) -> Array:
    """Attention in float64: q [B, S, H*D], k [B, L, G*D], v [B, L, G*Dv], positions [S] and [L] -> [B, S, H*Dv]."""
    heads, shared = int(attributes["num_heads"]), key_heads(attributes)
    (batch, queries, _), keys = q.shape, k.shape[1]
    width = _output_width(v, attributes)
    if keys == 0:
        return np.zeros((batch, queries, width))

    def split(rows: Array, heads: int) -> Array:
        return rows.reshape(batch, rows.shape[1], heads, rows.shape[2] // heads).transpose(0, 2, 1, 3)

    k_by_head, v_by_head = (split(rows, shared).repeat(heads // shared, axis=1) for rows in (k, v))
    scores = split(q, heads) @ k_by_head.swapaxes(-1, -2) * np.float64(np.float32(attributes["scale"]))
    softcap = np.float64(np.float32(attributes.get("softcap", 0.0)))
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if attention_bias is not None:
        scores = scores + attention_bias
    window = window_of(attributes)
    distance = key_positions - query_positions[:, None]
    if window.before is not None:
        scores = np.where(distance >= -window.before, scores, -np.inf)
    if window.after is not None:
        scores = np.where(distance <= window.after, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    if attributes.get("guard", 0):
        weights = np.where(np.isnan(weights), 0.0, weights)
    output: Array = (weights @ v_by_head).transpose(0, 2, 1, 3).reshape(batch, queries, width)
    return output
