"""Inputs for one node of ours as a serving process has them: a ragged batch of sequences, random numbers, ids in range.

For measuring kernels, whose speed does not depend on the numbers, and for comparing two ways to run one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.errors import Reject

Array = np.ndarray[Any, Any]
_VOCABULARY = 1000  # rows of a table whose size is not known


@dataclass(frozen=True)
class Batch:
    """Sequences of these lengths, padded at the end to the longest."""

    lengths: tuple[int, ...]

    @property
    def sequences(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """S."""
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @cached_property
    def mask(self) -> Array:
        """[B, S], true for tokens."""
        return np.arange(self.longest) < np.array(self.lengths)[:, None]

    @cached_property
    def positions(self) -> Array:
        """[T] int64, counted from 0 in each sequence."""
        return np.nonzero(self.mask)[1]

    @cached_property
    def starts(self) -> Array:
        """[B + 1] int32."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)


def ragged(sequences: int, longest: int, seed: int = 0) -> Batch:
    """Lengths from a quarter of the longest on; the first is the longest."""
    lengths = np.random.default_rng(seed).integers(max(longest // 4, 1), longest, sequences, endpoint=True)
    return Batch((longest, *(int(length) for length in lengths[1:])))


def sample(use: Use, batch: Batch, seed: int = 0) -> dict[str, Array]:
    """The node's inputs by operand; floating-point ones in float32, whatever the node takes.

    Args:
        use: what is known of the node; a size that is not known is taken from the batch.
        batch: what it works on.
        seed: of the numbers.

    Raises:
        Reject: the rank of an input is not known.
    """
    random = np.random.default_rng(seed)
    present = [operand.name for operand in spec(use.operator).inputs if use.has(operand.name)]
    return {name: _value(use, name, batch, random) for name in present}


def _value(use: Use, name: str, batch: Batch, random: np.random.Generator) -> Array:
    if name == "mask":
        return batch.mask.astype(use.types[name])
    if name == "cu_seqlens":
        return batch.starts
    if name == "token_index":
        return np.flatnonzero(batch.mask).astype(np.int64)
    if name == "index":
        return batch.positions % (use.size("cos", 0) or batch.longest)
    if name == "positions":
        return batch.positions
    shape = _shape(use, name, batch)
    if name.endswith("_ids"):
        size = use.size(f"{name.removesuffix('_ids')}_table", 0) or _VOCABULARY
        return random.integers(0, size, shape).astype(use.types[name])
    values = random.standard_normal(shape, np.float32)
    return values if is_float(use.types[name]) else (10 * values).astype(use.types[name])


def is_float(element: str) -> bool:
    """Whether a model can take it as float32 and cast it."""
    return element in ("float32", "float16", "bfloat16")


def _shape(use: Use, name: str, batch: Batch) -> tuple[int, ...]:
    known = use.shapes[name]
    if known is None:
        raise Reject("the rank of {} is not known", name)
    if name.endswith("_table"):
        unknown = [_VOCABULARY]
    elif name in ("cos", "sin") and use.has("index"):
        unknown = [batch.longest]
    elif name == "attention_bias":
        unknown = [batch.sequences, 1, batch.longest, batch.longest]
    elif _padded(use, name, len(known)):
        # An attention bias of a known length is for no other.
        fixed = use.size("attention_bias", 2 if name == "query" else 3) if name in ("query", "key", "value") else None
        unknown = [batch.sequences, fixed if fixed is not None and fixed > 1 else batch.longest]
    else:
        unknown = [batch.tokens]
    unknown += [1] * len(known)
    return tuple(size if isinstance(size, int) else unknown[axis] for axis, size in enumerate(known))


def _padded(use: Use, name: str, rank: int) -> bool:
    """Whether the operand has an axis for sequences and one for positions, instead of one for tokens."""
    if use.has("cu_seqlens") or use.has("token_index"):
        return False
    return rank == (2 if name.endswith("_ids") else 3)
