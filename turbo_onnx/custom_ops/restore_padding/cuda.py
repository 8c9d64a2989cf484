"""RestorePadding on CUDA: every position of the output is written once, with a row or with zeros.

Bits are moved, not values: there is one kernel for all types of a size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.errors import Reject

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "bool": 1}
_WORDS = {1: "bool", 2: "int16", 4: "int32", 8: "int64"}
_TILE = 8192  # bytes of the output that one program writes: 64 for each thread of four warps
_VECTOR = 16  # bytes that a thread loads at once, where rows start at multiples of it
_MOST_ELEMENTS = 2048
_MOST_ODD_ELEMENTS = 1024  # where each is moved by itself, with an address of its own
_MOST_POSITIONS = 256  # each of which is looked up


class TileSize(NamedTuple):
    """What one program writes: some positions, and of each some elements."""

    positions: int
    elements: int


@triton.jit
def restore_padding(
    rows,
    token_index,
    output,
    tokens,
    positions,
    WIDTH: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Output [positions, WIDTH] = rows [tokens, WIDTH] at positions token_index [tokens], and zeros elsewhere.

    Each position looks for its token by binary search, for which token_index must be strictly ascending and below
    `positions`. Whatever it holds, nothing outside of the tensors is touched.
    """
    position = tl.program_id(0).to(tl.int64) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    # How many tokens are before position p: at most p, and at least p less all of the padding.
    padding = positions - tokens
    low = tl.maximum(position - padding, 0)
    high = tl.minimum(position, tokens)
    span = tl.minimum(padding, tokens)  # high - low is never more
    while span > 0:
        middle = (low + high) // 2
        searching = low < high
        below = tl.load(token_index + middle, mask=searching, other=0) < position
        low = tl.where(searching & below, middle + 1, low)
        high = tl.where(searching & ~below, middle, high)
        span = span // 2
    present = (low < tokens) & (position < positions)
    present = present & (tl.load(token_index + low, mask=present, other=-1) == position)

    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = column < WIDTH
    row = tl.load(rows + low[:, None] * WIDTH + column, mask=present[:, None] & inside, other=0)
    tl.store(output + position[:, None] * WIDTH + column, row, mask=(position < positions)[:, None] & inside)


def tile(width: int, element_bytes: int) -> TileSize:
    """Whole rows if they fit, so that no position is looked up twice."""
    most = _MOST_ELEMENTS if width * element_bytes % _VECTOR == 0 else _MOST_ODD_ELEMENTS
    block = min(_TILE // element_bytes, most)
    elements = min(power_of_two(width), block)
    return TileSize(min(block // elements, _MOST_POSITIONS), elements)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's size.

    Raises:
        Reject: the size of a row is not known.
    """
    shape = use.shapes["rows"]
    if shape is None:
        raise Reject("the shape of rows is not known, and the kernel is made for one size")
    width = math.prod(known(use, "rows", axis) for axis in range(1, len(shape)))
    size = _BYTES[use.types["rows"]]
    positions, elements = tile(width, size)
    return [
        Variant(
            key=key("restore_padding", bytes=size, width=width),
            module=__name__,
            function="restore_padding",
            arguments={
                "rows": pointer(_WORDS[size]),
                "token_index": pointer("int64"),
                "output": pointer(_WORDS[size]),
                "tokens": "i64",
                "positions": "i64",
            },
            constants={"WIDTH": width, "BLOCK_POSITIONS": positions, "BLOCK_WIDTH": elements},
            tile=(positions, elements, 1),
        )
    ]
