"""EmbedLayerNormalization on CUDA: rows of tables are read once, normalized in registers, and written once."""

from __future__ import annotations

from collections.abc import Iterable

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.normalization import WIDEST, RowTile, normalize, row_candidates, row_tile
from turbo_onnx.custom_ops.cuda.sizes import known
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.errors import Reject

_KINDS = ("word", "token_type", "position")


@triton.jit
def embed_layer_normalization(
    word_ids,
    token_type_ids,
    position_ids,
    word_table,
    token_type_table,
    position_table,
    gamma,
    beta,
    output,
    epsilon,
    tokens,
    words,
    token_types,
    positions,
    WIDTH: tl.constexpr,
    HAS_TOKEN_TYPE: tl.constexpr,
    HAS_POSITION: tl.constexpr,
    HAS_BETA: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Output [tokens, WIDTH] = normalize(the sum of a row of each table) * gamma + beta.

    Ids are [tokens]; tables are [words, WIDTH], [token_types, WIDTH] and [positions, WIDTH]. Negative ids count from
    the end. A token with an id that is outside its table gets a row of NaN: nothing here can raise an error.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = column < WIDTH
    # All ids are asked for before the first row that depends on one.
    word = index_of(word_ids, words, row, tokens)
    if HAS_TOKEN_TYPE:
        token_type = index_of(token_type_ids, token_types, row, tokens)
    if HAS_POSITION:
        position = index_of(position_ids, positions, row, tokens)
    found = word >= 0
    value = looked_up(word_table, word, column, WIDTH)
    if HAS_TOKEN_TYPE:
        found = found & (token_type >= 0)
        value += looked_up(token_type_table, token_type, column, WIDTH)
    if HAS_POSITION:
        found = found & (position >= 0)
        value += looked_up(position_table, position, column, WIDTH)
    scale = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BETA:  # asked for before the statistics, so that it is there after them
        shift = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    # The deviation of a row with an id that is outside is NaN, and so is all that it divides.
    result = normalize(value, inside, tl.where(found, epsilon, float("nan")), WIDTH) * scale
    if HAS_BETA:
        result += shift
    tl.store(output + row * WIDTH + column, result.to(output.dtype.element_ty), mask=(row < tokens) & inside)


@triton.jit
def index_of(ids, size, row, tokens):
    """Rows of a table of `size` rows, for the ids at `row`: -1 where an id is outside."""
    index = tl.load(ids + row, mask=row < tokens, other=0).to(tl.int64)
    index = tl.where(index < 0, index + size, index)
    return tl.where((index >= 0) & (index < size), index, -1)


@triton.jit
def looked_up(table, index, column, WIDTH: tl.constexpr):
    """The float32 table[index, column]: 0 behind the end of a row, and where there is no row."""
    return tl.load(table + index * WIDTH + column, mask=(index >= 0) & (column < WIDTH), other=0.0).to(tl.float32)


def tile(width: int) -> RowTile:
    """What one program takes. It is the same for all devices: registers, not shared memory, are what limits it.

    Raises:
        Reject: a row is more than registers hold.
    """
    if width > WIDEST:
        raise Reject("rows of {} elements are wider than the {} that the kernel holds", width, WIDEST)
    return row_tile(width)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for tables of the node's width and for its types of ids.

    Raises:
        Reject: the width is not known, or too large.
    """
    width = known(use, "word_table", -1)
    rows, columns, warps = tile(width)
    element = use.types["word_table"]
    ids = {f"{kind}_ids": use.types.get(f"{kind}_ids") for kind in _KINDS}
    token_type, position, beta = (use.has(name) for name in ("token_type_table", "position_table", "beta"))
    tensors = (*(f"{kind}_table" for kind in _KINDS), "gamma", "beta", "output")
    return [
        Variant(
            key=key(
                "embed_layer_normalization",
                element,
                *(kind for kind in ids.values() if kind is not None),
                width=width,
                token_type=token_type,
                position=position,
                beta=beta,
            ),
            module=__name__,
            function="embed_layer_normalization",
            arguments={
                **{name: pointer(kind or "int64") for name, kind in ids.items()},
                **{name: pointer(element) for name in tensors},
                "epsilon": "fp32",
                "tokens": "i64",
                "words": "i64",
                "token_types": "i64",
                "positions": "i64",
            },
            constants={
                "WIDTH": width,
                "HAS_TOKEN_TYPE": token_type,
                "HAS_POSITION": position,
                "HAS_BETA": beta,
                "BLOCK_ROWS": rows,
                "BLOCK_WIDTH": columns,
            },
            tile=(rows, columns, 1),
            num_warps=warps,
        )
    ]


def candidates(variant: Variant, capability: int) -> Iterable[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    return row_candidates(variant)
