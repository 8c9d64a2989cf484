"""RestorePadding on CUDA: every position of the output is written once, with a row or with zeros.

Bits are moved, not values: there is one kernel for all types of a size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.errors import Reject

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "bool": 1}
_PROBES = tl.constexpr(32)  # tokens that a step of the search looks at: one for each thread of a warp
_WORDS = {1: "bool", 2: "int16", 4: "int32", 8: "int64"}
_SIZES = {pointer(word): size for size, word in _WORDS.items()}
_TILE = 16384  # bytes of the output that one program writes: 128 for each thread of four warps
_VECTOR = 16  # bytes that a thread loads at once, where rows start at multiples of it
_MOST_ELEMENTS = 8192
_MOST_ODD_ELEMENTS = 1024  # where each is moved by itself, with an address of its own
_WIDEST = 2048  # elements of a row in a tile
_MOST_POSITIONS = 64  # each of which is compared with as many tokens


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

    A program searches once, for the first token at or behind its first position; its other tokens follow that one. So
    token_index must be strictly ascending and below `positions`. Whatever it holds, nothing outside of the tensors is
    touched.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_POSITIONS
    # How many tokens are before the first position: at most as many as positions, and at least so less all padding.
    low = tl.maximum(first - (positions - tokens), 0)
    high = tl.minimum(first, tokens)
    probe = tl.arange(0, _PROBES)
    while low < high:
        step = (high - low + (_PROBES - 1)) // _PROBES
        token = low + probe * step
        below = (tl.load(token_index + token, mask=token < high, other=0) < first) & (token < high)
        count = tl.sum(below.to(tl.int32)).to(tl.int64)
        high = tl.minimum(low + count * step, high)
        low = tl.where(count > 0, low + (count - 1) * step + 1, low)

    lane = tl.arange(0, BLOCK_POSITIONS)
    index = tl.load(token_index + low + lane, mask=low + lane < tokens, other=-1)
    near = (index >= first) & (index < first + BLOCK_POSITIONS)
    place = tl.where(near, index - first, -1).to(tl.int32)
    token_lane = tl.max(tl.where(place[None, :] == lane[:, None], lane[None, :], -1), axis=1)
    present = (token_lane >= 0)[:, None]
    row = (low + token_lane)[:, None]
    position = first + lane[:, None]

    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = column < WIDTH
    value = tl.load(rows + row * WIDTH + column, mask=present & inside, other=0)
    tl.store(output + position * WIDTH + column, value, mask=(position < positions) & inside)


def tile(width: int, element_bytes: int, tile_bytes: int = _TILE) -> TileSize:
    """Whole rows if they fit, so that there is one search for each."""
    most = _MOST_ELEMENTS if width * element_bytes % _VECTOR == 0 else _MOST_ODD_ELEMENTS
    block = min(tile_bytes // element_bytes, most)
    elements = min(power_of_two(width), block, _WIDEST)
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


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    width, size = int(variant.constants["WIDTH"] or 0), _SIZES[variant.arguments["rows"]]
    for tile_bytes in (_TILE // 4, _TILE // 2, _TILE, 2 * _TILE):
        positions, elements = tile(width, size, tile_bytes)
        constants = {**variant.constants, "BLOCK_POSITIONS": positions, "BLOCK_WIDTH": elements}
        for warps in (1, 2, 4, 8):
            if 32 <= tile_bytes // (32 * warps) <= 256:
                yield replace(variant, constants=constants, tile=(positions, elements, 1), num_warps=warps)
