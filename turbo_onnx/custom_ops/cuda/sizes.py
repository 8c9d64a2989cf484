"""Sizes for which kernels are specialised."""

from __future__ import annotations

from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.errors import Reject

_SMALLEST_BLOCK = 128


def known(use: Use, operand: str, axis: int) -> int:
    """The size of an operand's axis.

    Raises:
        Reject: only a run can tell it.
    """
    size = use.size(operand, axis)
    if size is None:
        raise Reject("the size of axis {} of {} is not known, and the kernel is made for one size", axis, operand)
    return size


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`, and at least 1."""
    return 1 << max(size - 1, 0).bit_length()


def column_block(width: int, largest: int) -> int:
    """The largest power of two, up to `largest`, in whose blocks a row of `width` elements has the least padding.

    Blocks are not smaller than 128 elements, unless the row is.
    """
    block = min(power_of_two(width), largest)
    blocks = [block >> shift for shift in range(block.bit_length()) if block >> shift >= min(block, _SMALLEST_BLOCK)]
    return min(blocks, key=lambda size: (-(-width // size) * size, -size))
