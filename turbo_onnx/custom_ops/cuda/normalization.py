"""What kernels that normalize rows share: the statistics, and how many rows one program takes.

Small rows are reduced together, as TurboTransformers does (Fang et al., "TurboTransformers: An Efficient GPU Serving
System for Transformer Models", 2021): a program holds a tile of whole rows, and all of them wait for the same exchanges
between threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import power_of_two
from turbo_onnx.custom_ops.cuda.variant import Variant

WIDEST = 16384  # elements of a row that the registers of one program hold
_THREAD = 32  # elements of each thread: enough loads under way, and few enough that they stay in registers
_TILE = 1024  # elements in a tile, at least: one warp's
_WARP = 32
_LARGEST_TILE = 4096  # that is tried, unless a row is larger


class RowTile(NamedTuple):
    """What one program holds: whole rows, each padded to a power of two, and its number of warps."""

    rows: int
    columns: int
    warps: int


def row_tile(width: int) -> RowTile:
    """The tile for rows of `width` elements, at most WIDEST.

    One warp for each row up to 1024 elements, and for several small ones. It adds a row up without shared memory and
    without waiting for others, and most of what is behind the row's end is known at compile time: half of the
    instructions that four warps take for it.
    """
    columns = power_of_two(width)
    elements = max(columns, _TILE)
    return RowTile(elements // columns, columns, elements // (_WARP * _THREAD))


def row_tiles(width: int) -> list[RowTile]:
    """Tiles for such rows among which measuring may choose: from 8 to 64 elements for each thread."""
    columns = power_of_two(width)
    tiles = []
    for rows in (1, 2, 4, 8):
        elements = rows * columns
        warps = [count for count in (1, 2, 4, 8, 16, 32) if 8 <= elements // (_WARP * count) <= 64]
        if rows == 1 or elements <= _LARGEST_TILE:
            tiles += [RowTile(rows, columns, count) for count in warps]
    return tiles


def row_candidates(variant: Variant) -> Iterator[Variant]:
    """A kernel that holds whole rows, with each of their tiles."""
    for rows, columns, warps in row_tiles(int(variant.constants["WIDTH"] or 0)):
        constants = {**variant.constants, "BLOCK_ROWS": rows, "BLOCK_WIDTH": columns}
        yield replace(variant, constants=constants, tile=(rows, columns, 1), num_warps=warps)


@triton.jit
def normalize(value, inside, epsilon, WIDTH: tl.constexpr):
    """(value - mean) / sqrt(variance + epsilon) of each row.

    Two passes over registers, with the correction of Chan, Golub and LeVeque ("Algorithms for computing the sample
    variance", 1983), as on the CPU: the rounding of the mean is made good by the mean of what is left without it.

    Args:
        value: float32 [rows, columns], 0 where a column is not inside.
        inside: [1, columns], column < WIDTH.
        epsilon: added to the variance; float32, one for all rows or [rows, 1].
        WIDTH: elements of a row.
    """
    mean = tl.sum(value, axis=1, keep_dims=True) / WIDTH
    centred = tl.where(inside, value - mean, 0.0)
    error = tl.sum(centred, axis=1, keep_dims=True) / WIDTH
    squares = tl.sum(centred * centred, axis=1, keep_dims=True)
    factor = inverse_deviation(squares / WIDTH, error, epsilon)
    return centred * factor - error * factor


@triton.jit
def rms_normalize(value, epsilon, WIDTH: tl.constexpr):
    """Value / sqrt(mean(value²) + epsilon) of each row, for operands as `normalize` takes them."""
    square = tl.sum(value * value, axis=1, keep_dims=True) / WIDTH
    return value * tl.rsqrt(square + epsilon)


@triton.jit
def inverse_deviation(square, error, epsilon):
    """1 / sqrt(square - error² + epsilon), for the mean `error` and the mean `square` of what is left of a row."""
    variance = square - error * error
    return tl.rsqrt(tl.where(variance < 0.0, 0.0, variance) + epsilon)  # below 0 by rounding only; NaN stays
