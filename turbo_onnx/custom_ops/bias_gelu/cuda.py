"""BiasGelu on CUDA: one pass over memory, in tiles of some rows by some columns, so that a bias is read once a tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.normalization import RowTile
from turbo_onnx.custom_ops.cuda.sizes import column_block, known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

_WIDEST = 1024  # of a tile
_THREAD = 64  # bytes that each thread loads
_LOAD = 16  # bytes of them at once
_WARP = 32


@triton.jit
def bias_gelu(
    x,
    bias,
    output,
    rows,
    WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TANH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Output [rows, WIDTH] = gelu(x [rows, WIDTH] + bias [WIDTH])."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (row < rows) & (column < WIDTH)
    value = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    if TANH:
        # 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)), which neither overflows to NaN nor loses small values. The exponent is
        # -2 sqrt(2 / pi) (x + 0.044715 x^3), for a power of 2.
        result = value / (1.0 + tl.exp2(value * (-2.3022081985 - 0.1029432396 * value * value)))
    elif x.dtype.element_ty == tl.float32:
        result = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    else:
        result = value * normal_distribution(value)
    tl.store(output + row * WIDTH + column, result.to(output.dtype.element_ty), mask=inside)


@triton.jit
def normal_distribution(x):
    """The probability that a standard normal number is below x, to 5e-6 of it from -5.7 on, and to 1e-8 before.

    A hundredth of what half precision tells apart, for half of the instructions of `tl.erf`, which take as long as the
    memory does. Below 0 the probability is 2 to the power of a polynomial in |x|, since its logarithm bends so little.
    The coefficients make the largest error on [0, 5.7] smallest; found by Lawson's weighted least squares
    ("Contributions to the theory of linear least maximum approximation", 1961).
    """
    size = tl.abs(x)
    power = -1.8213259e-6 * size + 6.1369705e-5
    power = power * size - 9.2903094e-4
    power = power * size + 8.5031567e-3
    power = power * size - 5.3952571e-2
    power = power * size - 0.45846987
    power = power * size - 1.1512496
    below = tl.exp2(power * size - 0.99999535)
    return tl.where(x < 0.0, below, 1.0 - below)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's width.

    Raises:
        Reject: the width is not known.
    """
    width, element = known(use, "x", -1), use.types["x"]
    rows, columns, warps = tile(width, 4 if element == "float32" else 2)
    bias, tanh = use.has("bias"), use.attributes["approximate"] == "tanh"
    return [
        Variant(
            key=key("bias_gelu", element, width=width, bias=bias, tanh=tanh),
            module=__name__,
            function="bias_gelu",
            arguments={
                "x": pointer(element),
                "bias": pointer(element),
                "output": pointer(element),
                "rows": "i64",
            },
            constants={
                "WIDTH": width,
                "HAS_BIAS": bias,
                "TANH": tanh,
                "BLOCK_ROWS": rows,
                "BLOCK_WIDTH": columns,
            },
            tile=(rows, columns, 1),
            num_warps=warps,
        )
    ]


def tile(width: int, element_bytes: int) -> RowTile:
    """As many warps as load a row of the tile at once, so that each thread's bias is that of all of its rows.

    With more, the bias would have to go through shared memory to be where it is needed.
    """
    columns = column_block(width, _WIDEST)
    warps = max(columns * element_bytes // (_LOAD * _WARP), 1)
    return RowTile(_THREAD * _WARP * warps // (columns * element_bytes), columns, warps)


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    width = int(variant.constants["WIDTH"] or 0)
    for columns in sorted({column_block(width, 256), column_block(width, 1024), min(power_of_two(width), 1024)}):
        for warps in (1, 2, 4, 8):
            for elements in (16, 32):  # of each thread
                rows = elements * _WARP * warps // columns
                if not 1 <= rows <= 16:
                    continue
                constants = {**variant.constants, "BLOCK_ROWS": rows, "BLOCK_WIDTH": columns}
                yield replace(variant, constants=constants, tile=(rows, columns, 1), num_warps=warps)
