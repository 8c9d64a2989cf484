"""RotaryEmbedding on CUDA: one pass over memory, in which a program reads cosines and sines once for several heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import column_block, known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

_LOAD = 16  # bytes that a thread loads at once
_WARP = 32
_HEADS = 4  # of a program, whose loads are all under way together
_WARPS = 4
_BYTES = {pointer("float32"): 4, pointer("float16"): 2, pointer("bfloat16"): 2}


@triton.jit
def rotary_embedding(
    x,
    bias,
    cos,
    sin,
    index,
    output,
    rows,
    table_rows,
    HEADS: tl.constexpr,
    ROTATED: tl.constexpr,
    HEAD: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_INDEX: tl.constexpr,
    COLUMNS: tl.constexpr,
    REST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_COPIED: tl.constexpr,
):
    """Output [rows, HEADS * HEAD] = x + bias, of whose first ROTATED heads the first ROTARY columns are turned.

    Cos and sin are [table_rows, ROTARY]; without an index, row r takes row r % table_rows of them. An index that is
    outside makes what is turned of its row NaN: nothing is read there. The output may be x.

    Along y of the grid come first the programs that turn heads, BLOCK_HEADS each, then those that copy the columns
    behind, BLOCK_COPIED each. COLUMNS and REST are powers of two: what a half of ROTARY (all of it if INTERLEAVED), and
    what is behind ROTARY in a head, fit into.
    """
    WIDTH: tl.constexpr = HEADS * HEAD
    TURNING: tl.constexpr = (ROTATED + BLOCK_HEADS - 1) // BLOCK_HEADS
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    present = row < rows
    part = tl.program_id(1)
    if ROTATED < HEADS:
        if part >= TURNING:
            behind = ROTATED * HEAD + (part - TURNING) * BLOCK_COPIED + tl.arange(0, BLOCK_COPIED)[None, :]
            move(x, bias, output, row, behind, present & (behind < WIDTH), WIDTH, HAS_BIAS)
            return
    if HAS_INDEX:
        place = tl.load(index + row, mask=present, other=-1)
    else:
        place = row % table_rows
    found = (place >= 0) & (place < table_rows)
    column = tl.arange(0, COLUMNS)[None, :]
    if INTERLEAVED:
        inside = column < ROTARY
        cosine = looked_up(cos, place, column, found & inside, ROTARY)
        sine = looked_up(sin, place, column, found & inside, ROTARY)
        sine = tl.where(column % 2 == 0, -sine, sine)
    else:
        HALF: tl.constexpr = ROTARY // 2
        inside = column < HALF
        first_cosine = looked_up(cos, place, column, found & inside, ROTARY)
        second_cosine = looked_up(cos, place, column + HALF, found & inside, ROTARY)
        first_sine = looked_up(sin, place, column, found & inside, ROTARY)
        second_sine = looked_up(sin, place, column + HALF, found & inside, ROTARY)
    # All loads come before the first store: behind one that may be to the same memory they would have to wait.
    firsts, seconds = (), ()
    for number in tl.static_range(BLOCK_HEADS):
        at = (part * BLOCK_HEADS + number) * HEAD + column
        there = present & inside & (at < ROTATED * HEAD)
        firsts = firsts + (read(x, bias, row, at, there, WIDTH, HAS_BIAS),)  # type: ignore[assignment]
        if not INTERLEAVED:
            seconds = seconds + (read(x, bias, row, at + HALF, there, WIDTH, HAS_BIAS),)  # type: ignore[assignment]
    for number in tl.static_range(BLOCK_HEADS):
        start = (part * BLOCK_HEADS + number) * HEAD
        at = start + column
        there = present & inside & (at < ROTATED * HEAD)
        if INTERLEAVED:
            even, odd = tl.split(tl.reshape(firsts[number], [BLOCK_ROWS, COLUMNS // 2, 2]))
            partner = tl.reshape(tl.join(odd, even), [BLOCK_ROWS, COLUMNS])
            write(output, row, at, firsts[number] * cosine + partner * sine, there, WIDTH)
        else:
            write(output, row, at, firsts[number] * first_cosine - seconds[number] * first_sine, there, WIDTH)
            turned = seconds[number] * second_cosine + firsts[number] * second_sine
            write(output, row, at + HALF, turned, there, WIDTH)
        if REST > 0:
            still = ROTARY + tl.arange(0, REST)[None, :]
            of_head = (still < HEAD) & (start + still < ROTATED * HEAD)
            move(x, bias, output, row, start + still, present & of_head, WIDTH, HAS_BIAS)


@triton.jit
def looked_up(table, place, column, found, WIDTH: tl.constexpr):
    """The float32 table[place, column], NaN where it is not found."""
    return tl.load(table + place * WIDTH + column, mask=found, other=float("nan")).to(tl.float32)


@triton.jit
def read(x, bias, row, column, inside, WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The float32 x[row, column] + bias[column]."""
    value = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        # For each row by itself: what several rows shared would have to go through shared memory.
        value += tl.load(bias + column + row * 0, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def write(output, row, column, value, inside, WIDTH: tl.constexpr):
    """Output[row, column] = value."""
    tl.store(output + row * WIDTH + column, value.to(output.dtype.element_ty), mask=inside)


@triton.jit
def move(x, bias, output, row, column, inside, WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Output[row, column] = x[row, column] + bias[column]."""
    write(output, row, column, read(x, bias, row, column, inside, WIDTH, HAS_BIAS), inside, WIDTH)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for the node's heads and for the type of its tables.

    Raises:
        Reject: the width of the rows or of the tables is not known.
    """
    width, rotary = known(use, "input", -1), known(use, "cos", -1)
    element, table = use.types["input"], use.types["cos"]
    heads = int(use.attributes["num_heads"])
    rotated = int(use.attributes["rotated_heads"]) or heads
    size, interleaved = width // heads, bool(use.attributes["interleaved"])
    bias, index = use.has("bias"), use.has("index")
    variant = Variant(
        key=key(
            "rotary_embedding",
            element,
            table,
            heads=heads,
            rotated=rotated,
            head=size,
            rotary=rotary,
            interleaved=interleaved,
            bias=bias,
            index=index,
        ),
        module=__name__,
        function="rotary_embedding",
        arguments={
            **dict.fromkeys(("x", "bias"), pointer(element)),
            **dict.fromkeys(("cos", "sin"), pointer(table)),
            "index": pointer("int64"),
            "output": pointer(element),
            "rows": "i64",
            "table_rows": "i64",
        },
        constants={
            "HEADS": heads,
            "ROTATED": rotated,
            "HEAD": size,
            "ROTARY": rotary,
            "INTERLEAVED": interleaved,
            "HAS_BIAS": bias,
            "HAS_INDEX": index,
            "COLUMNS": power_of_two(rotary if interleaved else rotary // 2),
            "REST": power_of_two(size - rotary) if size > rotary else 0,
        },
    )
    return [tiled(variant, _HEADS, _WARPS)]


def tiled(variant: Variant, heads: int, warps: int) -> Variant:
    """The kernel with programs of so many heads, at most, and of as many rows as so many warps load at once.

    A program that copies takes as many columns as one that turns, where there are so many.
    """
    values = {name: int(value or 0) for name, value in variant.constants.items()}
    columns = values["COLUMNS"]
    rows = max(_LOAD // _BYTES[variant.arguments["x"]] * _WARP * warps // columns, 1)
    heads = min(heads, power_of_two(values["ROTATED"]))
    copied = (values["HEADS"] - values["ROTATED"]) * values["HEAD"]
    block = column_block(copied, heads * columns * (1 if values["INTERLEAVED"] else 2))
    blocks = {"BLOCK_ROWS": rows, "BLOCK_HEADS": heads, "BLOCK_COPIED": block}
    return replace(variant, constants={**variant.constants, **blocks}, tile=(rows, heads, block), num_warps=warps)


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    for heads in (1, 2, 4, 8):
        for warps in (1, 2, 4, 8):
            yield tiled(variant, heads, warps)
