"""How the kernels want a weight of bytes: in tiles, as product.h says."""

from __future__ import annotations

import numpy as np

from turbo_onnx.custom_ops.specification import Array

COLUMNS = 16
DEPTH = 64
TOGETHER = 4
"""Numbers of K that stand beside each other in a column: as many as an instruction adds up."""


def tiled(weight: Array) -> Array:
    """A weight [K, N] int8 as [N / 16, K / 64, 16, 16, 4], with zeros where K and N are no multiples."""
    rows, columns = weight.shape
    padded = np.pad(weight, ((0, -rows % DEPTH), (0, -columns % COLUMNS)))
    blocks = padded.reshape(-1, DEPTH // TOGETHER, TOGETHER, padded.shape[1] // COLUMNS, COLUMNS)
    return np.ascontiguousarray(blocks.transpose(3, 0, 1, 4, 2))


def untiled(tiles: Array, rows: int, columns: int) -> Array:
    """The weight [K, N] of such tiles."""
    blocks = tiles.transpose(1, 2, 4, 0, 3)
    return blocks.reshape(-1, tiles.shape[0] * COLUMNS)[:rows, :columns]
