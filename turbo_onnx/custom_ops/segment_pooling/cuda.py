"""SegmentPooling on CUDA: a program pools some columns of one sequence, in blocks of rows.

Nothing is added atomically: equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

_MODES = ("mean", "sum", "max", "first")  # in the order of the C++ enum Pooling
_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_LINE = 128  # bytes of a row that one program reads: a line of the cache
_ELEMENTS = 4096  # in a block of rows: 16 for each thread
_WARPS = 8
_MOST_ROWS = 256


class BlockSize(NamedTuple):
    """What one step of a program reads."""

    rows: int
    columns: int


@triton.jit
def segment_pooling(
    rows,
    cu_seqlens,
    output,
    total_rows,
    WIDTH: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Output [sequences, WIDTH] = the mean, sum, max or first of rows [total_rows, WIDTH] of each sequence.

    Program (s, c) makes columns c * BLOCK_WIDTH onwards of sequence s. Rows outside of the tensor are not touched,
    whatever cu_seqlens holds.
    """
    sequence = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    inside = column < WIDTH
    start = tl.maximum(tl.load(cu_seqlens + sequence).to(tl.int64), 0)
    end = tl.minimum(tl.load(cu_seqlens + sequence + 1).to(tl.int64), total_rows)
    if MODE == "first":
        row = start + tl.zeros([BLOCK_WIDTH], tl.int64)
        pooled = tl.load(rows + row * WIDTH + column, mask=(row < end) & inside, other=0.0).to(tl.float32)
    else:
        padding = float("-inf") if MODE == "max" else 0.0
        slots = tl.full([BLOCK_ROWS, BLOCK_WIDTH], padding, tl.float32)
        for first in range(start, end, BLOCK_ROWS):
            row = first + tl.arange(0, BLOCK_ROWS)[:, None]
            mask = (row < end) & inside[None, :]
            value = tl.load(rows + row * WIDTH + column[None, :], mask=mask, other=padding).to(tl.float32)
            if MODE == "max":
                slots = tl.maximum(slots, value, propagate_nan=tl.PropagateNan.ALL)
            else:
                slots += value
        if MODE == "max":
            undefined = slots != slots
            largest = tl.max(tl.where(undefined, padding, slots), axis=0)
            pooled = tl.where(tl.max(undefined.to(tl.int32), axis=0) != 0, float("nan"), largest)
        else:
            pooled = tl.sum(slots, axis=0)
        if MODE == "mean":
            pooled /= tl.maximum(end - start, 1).to(tl.float32)
    tl.store(output + sequence * WIDTH + column, pooled.to(output.dtype.element_ty), mask=inside)


def tile(width: int, element_bytes: int) -> BlockSize:
    """Few columns, as whole lines of the cache, so that there are many programs; rows enough to fill the block."""
    columns = min(power_of_two(width), _LINE // element_bytes)
    return BlockSize(min(_ELEMENTS // columns, _MOST_ROWS), columns)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's width.

    Raises:
        Reject: the width is not known.
    """
    width, element, mode = known(use, "rows", -1), use.types["rows"], use.attributes["mode"]
    block = tile(width, _ELEMENT_BYTES[element])
    return [
        Variant(
            key=key("segment_pooling", element, width=width, mode=_MODES.index(mode)),
            module=__name__,
            function="segment_pooling",
            arguments={
                "rows": pointer(element),
                "cu_seqlens": pointer("int32"),
                "output": pointer(element),
                "total_rows": "i64",
            },
            constants={"WIDTH": width, "MODE": mode, "BLOCK_ROWS": block.rows, "BLOCK_WIDTH": block.columns},
            tile=(1, block.columns, 1),
            num_warps=1 if mode == "first" else _WARPS,
        )
    ]


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other blocks and numbers of warps among which measuring may choose; none for a single row of each sequence."""
    if variant.constants["MODE"] == "first":
        return
    columns = int(variant.constants["BLOCK_WIDTH"] or 0)
    for width in (columns, 2 * columns):
        for rows in (16, 32, 64, 128):
            constants = {**variant.constants, "BLOCK_ROWS": rows, "BLOCK_WIDTH": width}
            for warps in (2, 4, 8):
                if 8 <= rows * width // (32 * warps) <= 64:
                    yield replace(variant, constants=constants, tile=(1, width, 1), num_warps=warps)
