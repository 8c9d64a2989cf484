"""BiasGelu on CUDA: one pass over memory, in tiles of some rows by some columns, so that a bias is read once a tile."""

from __future__ import annotations

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.sizes import known, power_of_two
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer

_ELEMENTS = 4096  # in a tile: 32 for each thread


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
        argument = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        # 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)), which neither overflows to NaN nor loses small values.
        result = value / (1.0 + tl.exp(-2.0 * argument))
    else:
        result = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    tl.store(output + row * WIDTH + column, result.to(output.dtype.element_ty), mask=inside)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for rows of the node's width.

    Raises:
        Reject: the width is not known.
    """
    width = known(use, "x", -1)
    columns = min(power_of_two(width), 1024)
    tile = (_ELEMENTS // columns, columns, 1)
    element = use.types["x"]
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
                "BLOCK_ROWS": tile[0],
                "BLOCK_WIDTH": tile[1],
            },
            tile=tile,
        )
    ]
