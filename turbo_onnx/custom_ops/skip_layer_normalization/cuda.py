"""SkipLayerNormalization on CUDA: each row is read once, normalized in registers, and written once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.normalization import (
    WIDEST,
    RowTile,
    inverse_deviation,
    normalize,
    rms_normalize,
    row_candidates,
    row_tile,
)
from turbo_onnx.custom_ops.cuda.sizes import known
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

_WIDE_BLOCK = 4096


@triton.jit
def skip_layer_normalization(
    x,
    skip,
    gamma,
    beta,
    bias,
    output,
    total,
    epsilon,
    rows,
    WIDTH: tl.constexpr,
    RMS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Total = x + skip + bias and output = normalize(total) * gamma + beta, [rows, WIDTH], some rows a program.

    With RMS the mean is not taken off, and the root of the mean square divides.
    The statistics are those of the float32 sum, not of `total` as it is stored. Output and total may be x or skip.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = column < WIDTH
    mask = (row < rows) & inside
    offset = row * WIDTH + column
    value = added(x, skip, bias, offset, column, mask, inside, HAS_SKIP, HAS_BIAS)
    if HAS_TOTAL:
        tl.store(total + offset, value.to(total.dtype.element_ty), mask=mask)
    factor = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BETA:  # asked for before the statistics, so that it is there after them
        shift = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    if RMS:
        result = rms_normalize(value, epsilon, WIDTH) * factor
    else:
        result = normalize(value, inside, epsilon, WIDTH) * factor
    if HAS_BETA:
        result += shift
    tl.store(output + offset, result.to(output.dtype.element_ty), mask=mask)


@triton.jit
def skip_layer_normalization_wide(
    x,
    skip,
    gamma,
    beta,
    bias,
    output,
    total,
    epsilon,
    rows,
    WIDTH: tl.constexpr,
    RMS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """The same for rows that registers do not hold: one row a program, read again in each of three passes.

    Only the last pass writes, and each element after it was read, so that output and total may be x or skip here too.
    """
    start = tl.program_id(0).to(tl.int64) * WIDTH
    lanes = tl.arange(0, BLOCK_WIDTH)
    mean = 0.0
    if not RMS:
        sums = tl.zeros([BLOCK_WIDTH], tl.float32)
        for first in range(0, WIDTH, BLOCK_WIDTH):
            column = first + lanes
            inside = column < WIDTH
            sums += added(x, skip, bias, start + column, column, inside, inside, HAS_SKIP, HAS_BIAS)
        mean = tl.sum(sums) / WIDTH

    errors = tl.zeros([BLOCK_WIDTH], tl.float32)
    squares = tl.zeros([BLOCK_WIDTH], tl.float32)
    for first in range(0, WIDTH, BLOCK_WIDTH):
        column = first + lanes
        inside = column < WIDTH
        value = added(x, skip, bias, start + column, column, inside, inside, HAS_SKIP, HAS_BIAS)
        centred = tl.where(inside, value - mean, 0.0)
        if not RMS:
            errors += centred
        squares += centred * centred
    error = tl.sum(errors) / WIDTH
    factor = inverse_deviation(tl.sum(squares) / WIDTH, error, epsilon)

    for first in range(0, WIDTH, BLOCK_WIDTH):
        column = first + lanes
        inside = column < WIDTH
        value = added(x, skip, bias, start + column, column, inside, inside, HAS_SKIP, HAS_BIAS)
        result = ((value - mean) - error) * factor * tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_BETA:
            result += tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_TOTAL:
            tl.store(total + start + column, value.to(total.dtype.element_ty), mask=inside)
        tl.store(output + start + column, result.to(output.dtype.element_ty), mask=inside)


@triton.jit
def added(x, skip, bias, offset, column, mask, inside, HAS_SKIP: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The float32 x[offset] + skip[offset] + bias[column], and 0 where a column is not inside."""
    value = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
    if HAS_SKIP:
        value += tl.load(skip + offset, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    return value


def tile(width: int) -> RowTile:
    """What one program takes. It is the same for all devices: registers, not shared memory, are what limits it."""
    return row_tile(width) if width <= WIDEST else RowTile(1, _WIDE_BLOCK, 8)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's width.

    Raises:
        Reject: the width is not known.
    """
    width = known(use, "x", -1)
    rows, columns, warps = tile(width)
    element = use.types["x"]
    skip, beta, bias, total = (use.has(operand) for operand in ("skip", "beta", "bias", "sum"))
    rms = bool(use.attributes["rms"])
    # What came later is in the key only where it differs from what there was, so that archives keep their keys.
    later = ({} if skip else {"skip": False}) | ({"rms": True} if rms else {})
    pointers = ("x", "skip", "gamma", "beta", "bias", "output", "total")
    return [
        Variant(
            key=key("skip_layer_normalization", element, width=width, beta=beta, bias=bias, sum=total, **later),
            module=__name__,
            function="skip_layer_normalization" if width <= WIDEST else "skip_layer_normalization_wide",
            arguments={name: pointer(element) for name in pointers} | {"epsilon": "fp32", "rows": "i64"},
            constants={
                "WIDTH": width,
                "RMS": rms,
                "HAS_SKIP": skip,
                "HAS_BETA": beta,
                "HAS_BIAS": bias,
                "HAS_TOTAL": total,
                "BLOCK_ROWS": rows,
                "BLOCK_WIDTH": columns,
            },
            tile=(rows, columns, 1),
            num_warps=warps,
        )
    ]


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    if variant.function == "skip_layer_normalization":
        yield from row_candidates(variant)
        return
    for columns in (2048, 4096, 8192):
        constants = {**variant.constants, "BLOCK_WIDTH": columns}
        for warps in (4, 8, 16):
            yield replace(variant, constants=constants, tile=(1, columns, 1), num_warps=warps)
