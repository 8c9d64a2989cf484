"""What kernels that normalize rows share: the statistics, and how many rows one program takes.

Small rows are reduced together, as TurboTransformers does (Fang et al., "TurboTransformers: An Efficient GPU Serving
System for Transformer Models", 2021): a program holds a tile of whole rows, and all of them wait for the same exchanges
between threads.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import power_of_two

WIDEST = 16384  # elements of a row that the registers of one program hold
_ELEMENTS = 2048  # at least, in a tile
_WARPS = {2048: 4, 4096: 16, 8192: 16, 16384: 32}  # by its elements: 8 or 16 a thread fit in registers


class RowTile(NamedTuple):
    """What one program holds: whole rows, each padded to a power of two, and its number of warps."""

    rows: int
    columns: int
    warps: int


def row_tile(width: int) -> RowTile:
    """The tile for rows of `width` elements, at most WIDEST."""
    columns = power_of_two(width)
    elements = max(columns, _ELEMENTS)
    return RowTile(elements // columns, columns, _WARPS[elements])


@triton.jit
def normalize(value, inside, epsilon, WIDTH: tl.constexpr):
    """(value - mean) / sqrt(variance + epsilon) of each row.

    Two passes over registers, with the correction of Chan, Golub and LeVeque ("Algorithms for computing the sample
    variance", 1983), as on the CPU: the rounding of the mean is made good by the mean of what is left without it.

    Args:
        value: float32 [rows, columns], 0 where a column is not inside.
        inside: [1, columns], column < WIDTH.
        epsilon: added to the variance.
        WIDTH: elements of a row.
    """
    mean = tl.sum(value, axis=1, keep_dims=True) / WIDTH
    centred = tl.where(inside, value - mean, 0.0)
    error = tl.sum(centred, axis=1, keep_dims=True) / WIDTH
    squares = tl.sum(centred * centred, axis=1, keep_dims=True)
    return (centred - error) * inverse_deviation(squares / WIDTH, error, epsilon)


@triton.jit
def inverse_deviation(square, error, epsilon):
    """1 / sqrt(square - error² + epsilon), for the mean `error` and the mean `square` of what is left of a row."""
    variance = square - error * error
    return tl.rsqrt(tl.where(variance < 0.0, 0.0, variance) + epsilon)  # below 0 by rounding only; NaN stays
