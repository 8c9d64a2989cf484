"""GatedActivation on CUDA: one pass over memory, in tiles of some rows by some columns of the result."""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from turbo_onnx.custom_ops.activations import ACTIVATIONS
from turbo_onnx.custom_ops.cuda.activations import activated
from turbo_onnx.custom_ops.cuda.column_tiles import column_candidates, column_tile, element_bytes
from turbo_onnx.custom_ops.cuda.sizes import known
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.errors import Reject

_THREAD_BYTES = 32  # of gate and of up that each thread loads


@triton.jit
def gated_activation(
    x,
    up,
    bias,
    output,
    rows,
    WIDTH: tl.constexpr,
    JOINED: tl.constexpr,
    GATE_LAST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Output [rows, WIDTH] = activation(gate + its bias) * (up + its bias).

    Both are halves of x [rows, 2 * WIDTH] if JOINED, else x and up [rows, WIDTH]. Their biases are the halves of
    bias [2 * WIDTH]. GATE_LAST: the gate is the second half.
    """
    gate_begins: tl.constexpr = WIDTH if GATE_LAST else 0
    up_begins: tl.constexpr = WIDTH - gate_begins
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (row < rows) & (column < WIDTH)
    if JOINED:
        first = x + row * (2 * WIDTH) + gate_begins + column
        second = x + row * (2 * WIDTH) + up_begins + column
    else:
        first = x + row * WIDTH + column
        second = up + row * WIDTH + column
    gate = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    through = tl.load(second, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        gate += tl.load(bias + gate_begins + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        through += tl.load(bias + up_begins + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    result = activated(gate, ACTIVATION, x.dtype.element_ty == tl.float32) * through
    tl.store(output + row * WIDTH + column, result.to(output.dtype.element_ty), mask=inside)


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernel for results of the node's width.

    Raises:
        Reject: the width is not known, or x has no two halves.
    """
    joined = not use.has("up")
    columns, element = known(use, "x", -1), use.types["x"]
    if joined and columns % 2:
        raise Reject("x has {} columns, and no two halves", columns)
    width = columns // 2 if joined else columns
    rows, columns, warps = column_tile(width, element_bytes(element), _THREAD_BYTES)
    bias, last = use.has("bias"), bool(use.attributes["gate_last"])
    activation = ACTIVATIONS.index(use.attributes["activation"])
    facts = {"width": width, "joined": joined, "last": last, "bias": bias, "activation": activation}
    return [
        Variant(
            key=key("gated_activation", element, **facts),
            module=__name__,
            function="gated_activation",
            arguments={
                "x": pointer(element),
                "up": pointer(element),
                "bias": pointer(element),
                "output": pointer(element),
                "rows": "i64",
            },
            constants={
                "WIDTH": width,
                "JOINED": joined,
                "GATE_LAST": last,
                "HAS_BIAS": bias,
                "ACTIVATION": activation,
                "BLOCK_ROWS": rows,
                "BLOCK_WIDTH": columns,
            },
            tile=(rows, columns, 1),
            num_warps=warps,
        )
    ]


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles and numbers of warps among which measuring may choose."""
    return column_candidates(variant, elements=(8, 16))
