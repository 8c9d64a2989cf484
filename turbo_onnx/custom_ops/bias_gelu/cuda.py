"""BiasGelu on CUDA: one pass over memory, in tiles of some rows by some columns, so that a bias is read once a tile."""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.activations import GELU, GELU_BY_TANH, activated
from turbo_onnx.custom_ops.cuda.column_tiles import column_candidates, column_tile, element_bytes
from turbo_onnx.custom_ops.cuda.sizes import known
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

THREAD_BYTES = 64  # that each thread loads


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
    activation: tl.constexpr = GELU_BY_TANH if TANH else GELU
    result = activated(value, activation, x.dtype.element_ty == tl.float32)
    tl.store(output + row * WIDTH + column, result.to(output.dtype.element_ty), mask=inside)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's width.

    Raises:
        Reject: the width is not known.
    """
    width, element = known(use, "x", -1), use.types["x"]
    rows, columns, warps = column_tile(width, element_bytes(element), THREAD_BYTES)
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


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    return column_candidates(variant, elements=(16, 32))
