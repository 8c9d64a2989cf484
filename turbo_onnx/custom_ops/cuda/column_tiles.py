"""Tiles of kernels that compute element by element on rows with biases, which are read once for each tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from turbo_onnx.custom_ops.cuda.normalization import RowTile
from turbo_onnx.custom_ops.cuda.sizes import column_block, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Variant

_WIDEST = 1024  # of a tile
_LOAD = 16  # bytes that a thread loads at once
_WARP = 32
_MOST_ROWS = 16


def element_bytes(element: str) -> int:
    """The size of a floating-point element type, which is given by its NumPy name."""
    return 4 if element == "float32" else 2


def column_tile(width: int, size: int, thread_bytes: int) -> RowTile:
    """As many warps as load a row of the tile at once, so that each thread's bias is that of all of its rows.

    With more, the bias would have to go through shared memory to be where it is needed.

    Args:
        width: elements of a row.
        size: bytes of an element.
        thread_bytes: how much of one operand a thread holds.
    """
    columns = column_block(width, _WIDEST)
    warps = max(columns * size // (_LOAD * _WARP), 1)
    return RowTile(max(thread_bytes * _WARP * warps // (columns * size), 1), columns, warps)


def column_candidates(variant: Variant, elements: Sequence[int]) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose.

    Args:
        variant: a kernel with the constants WIDTH, BLOCK_ROWS and BLOCK_WIDTH.
        elements: how many of one operand a thread may hold.
    """
    width = int(variant.constants["WIDTH"] or 0)
    for columns in sorted({column_block(width, 256), column_block(width, 1024), min(power_of_two(width), 1024)}):
        for warps in (1, 2, 4, 8):
            for held in elements:
                rows = held * _WARP * warps // columns
                if not 1 <= rows <= _MOST_ROWS:
                    continue
                constants = {**variant.constants, "BLOCK_ROWS": rows, "BLOCK_WIDTH": columns}
                yield replace(variant, constants=constants, tile=(rows, columns, 1), num_warps=warps)
