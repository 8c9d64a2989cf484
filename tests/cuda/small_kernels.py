"""Kernels for tests of the compiler: they compile fast, or not at all."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scaled(x, y, count, wide, scale, BLOCK: tl.constexpr, SHIFT: tl.constexpr):  # noqa: N803
    """y = x · scale + SHIFT."""
    index = wide + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    value = tl.load(x + index, mask=inside).to(tl.float32)
    tl.store(y + index, (value * scale + SHIFT).to(y.dtype.element_ty), mask=inside)


@triton.jit
def product(x, y, SIZE: tl.constexpr):  # noqa: N803
    """Y = X · X in one block: what it needs of shared memory grows with the size."""
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    value = tl.load(x + row * SIZE + column)
    tl.store(y + row * SIZE + column, tl.dot(value, value).to(y.dtype.element_ty))


@triton.jit
def wrong(x, SIZE: tl.constexpr):  # noqa: N803
    """Triton refuses a range that is no power of two."""
    tl.store(x + tl.arange(0, SIZE), 0.0)


@triton.jit
def combined(a, b, OPERATION: tl.constexpr):  # noqa: N803
    """The sum, the difference or the product."""
    if OPERATION == "add":
        return a + b
    if OPERATION == "sub":
        return a - b
    return a * b


@triton.jit
def integers(result, a, b, OPERATION: tl.constexpr):  # noqa: N803
    """By a function, as most of what kernels do."""
    tl.store(result, combined(a, b, OPERATION))
