"""Uses of VarlenAttention with random numbers: packed rows, batches, and caches.

The reference is computed in float64; a result may differ from it by 1e-6 of the largest expected magnitude, or of 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.custom_ops.single_node import Array, Case, assert_equal, by_kernel

TOLERANCE = 1e-6


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def starts_of(lengths: list[int]) -> Array:
    return np.cumsum([0, *lengths]).astype(np.int32)


def packed(
    lengths: list[int],
    size: int,
    heads: int = 2,
    value_size: int | None = None,
    bias: bool = False,
    positions: Array | None = None,
    **attributes: Any,
) -> Case:
    """Separate projections of packed sequences."""
    shared = attributes.get("kv_num_heads") or heads
    total, width, value_width = sum(lengths), shared * size, shared * (value_size or size)
    rows = [normal(total, heads * size, seed=1), normal(total, width, seed=2), normal(total, value_width, seed=3)]
    offsets = normal(heads * size + width + value_width, seed=4) if bias else None
    given = {"num_heads": heads, "scale": size**-0.5, **attributes}
    return Case("VarlenAttention", [*rows, offsets, starts_of(lengths), None, positions], given)


def joined(case: Case) -> Case:
    """The case with Q | K | V in one operand."""
    together = np.concatenate(case.inputs[:3], axis=-1)  # type: ignore[arg-type]
    return Case(case.operator, [together, None, None, *case.inputs[3:]], case.attributes)


def dense(
    batch: int, queries: int, keys: int, size: int = 16, heads: int = 2, bias: Array | None = None, **attributes: Any
) -> Case:
    """A batch of rank 3, with a bias for its scores."""
    width = heads * size
    rows = [normal(batch, length, width, seed=seed) for seed, length in enumerate((queries, keys, keys))]
    return Case("VarlenAttention", [*rows, None, None, bias], {"num_heads": heads, "scale": size**-0.5, **attributes})


def hiding(queries: int, keys: int, row: int) -> Array:
    """A bias [2, 1, S, L] that hides all keys from one query of the first sequence, and half from all of the second."""
    bias = np.zeros((2, 1, queries, keys), np.float32)
    bias[0, :, row] = -np.inf
    bias[1, :, :, keys // 2 :] = -np.inf
    return bias


def check(case: Case) -> None:
    assert_equal(by_kernel(case), case.expected(), TOLERANCE)


def cached(
    batch: int,
    keys: int,
    queries: int = 1,
    heads: tuple[int, int] = (2, 2),
    size: int = 16,
    value_size: int | None = None,
    bias: bool = False,
    attention_bias: Array | None = None,
    **attributes: Any,
) -> Case:
    """Queries as rows, keys and values by head."""
    own, shared = heads
    of_values = value_size or size
    query = normal(batch, queries, own * size, seed=1)
    key, value = normal(batch, shared, keys, size, seed=2), normal(batch, shared, keys, of_values, seed=3)
    offsets = normal((own + shared) * size + shared * of_values, seed=4) if bias else None
    given = {"num_heads": own, "kv_num_heads": shared, "scale": size**-0.5, "keys_by_head": 1, **attributes}
    return Case("VarlenAttention", [query, key, value, offsets, None, attention_bias], given)


def as_rows(case: Case) -> Case:
    """The case with keys and values as rows."""
    query, *operands = case.inputs
    rows = [part.transpose(0, 2, 1, 3).reshape(part.shape[0], part.shape[2], -1) for part in operands[:2]]
    return Case(case.operator, [query, *rows, *operands[2:]], {**case.attributes, "keys_by_head": 0})
