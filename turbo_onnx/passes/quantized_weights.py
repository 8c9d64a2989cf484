"""A weight in 8 bits, with a scale for each column.

On x86 processors without VNNI, products of bytes are added in pairs, in 16 bits that saturate (`vpmaddubsw`): a result
beyond 32767 is silently wrong. Two neighbours of one sign whose sizes add up to no more than 128 cannot get there with
bytes of up to 255, since 255 · 128 = 32640. So a column's scale is made such that no two do more. That costs a usual
weight a fifth to a quarter of its range, and giving up a bit would cost it half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_MOST = 127  # of two neighbours before they are rounded, which adds no more than 1
_COLUMNS = 512  # at a time, so that what is computed in between stays small beside the weight


@dataclass(frozen=True)
class QuantizedWeight:
    """integers · scale is nearly the weight.

    Attributes:
        integers: [K, N] int8.
        scale: [N] float32.
        column_sums: [N] int32, of the integers.
    """

    integers: Array
    scale: Array
    column_sums: Array


def quantized(weight: Array) -> QuantizedWeight:
    """Quantize a finite float32 weight [K, N], N > 0, which may be a transposed view."""
    starts = range(0, weight.shape[1], _COLUMNS)
    parts = [_quantized(np.ascontiguousarray(weight[:, start : start + _COLUMNS])) for start in starts]
    integers, scale, column_sums = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return QuantizedWeight(integers, scale, column_sums)


def _quantized(weight: Array) -> tuple[Array, Array, Array]:
    scale = _largest_pair(weight / np.float32(_MOST))
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale).astype(np.float32)  # or it is too coarse
    integers = np.rint(weight / scale).astype(np.int8)
    return integers, scale, integers.sum(axis=0, dtype=np.int32)


def _largest_pair(weight: Array) -> Array:
    """For each column, the most that rows 2i and 2i + 1 come to, of what is positive and of what is negative: [N]."""
    even = weight.shape[0] // 2 * 2
    most: Array = np.abs(weight[even:]).max(axis=0, initial=0.0)
    for side in (np.maximum(weight, 0), np.maximum(-weight, 0)):
        most = np.maximum(most, (side[0:even:2] + side[1:even:2]).max(axis=0, initial=0.0))
    return most
