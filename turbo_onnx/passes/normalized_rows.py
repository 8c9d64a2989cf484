"""What raising asks of the operands of a normalization over the last axis, and the form that it gives them.

The standard operators want a scale of the rows' length, and compute in float32.
"""

from __future__ import annotations

import numpy as np

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor


def check_operands(x: Tensor, epsilon: float, operator: str) -> None:
    """Raise Reject unless `x` is float32 with rows of known length, and epsilon is not negative."""
    if x.dtype != np.float32:  # it would lose digits of a double, and change what half precision decides
        raise Reject("{} is {}, and {} computes in float32", x.name, x.dtype, operator)
    if not x.shape or not isinstance(x.shape[-1], int):
        raise Reject("the length of the last axis of {} is not known", x.name)
    if epsilon < 0:
        raise Reject("epsilon is {}", epsilon)


def row(value: Tensor, x: Tensor, edit: Editor) -> Tensor:
    """The constant as one row [H] that is added to, or multiplies, every row of `x` [..., H].

    Raises:
        Reject: it differs from row to row, or would add an axis.
    """
    width, rank, shape = x.shape[-1], len(x.shape), list(value.shape)
    if shape == [width]:
        return value
    if len(shape) > rank or any(size != 1 for size in shape[:-1]) or (shape and shape[-1] not in (1, width)):
        raise Reject("{} {} is not one row of {} numbers", value.name, shape, width)
    return edit.constant(np.ascontiguousarray(np.broadcast_to(value.values.reshape(-1), width)), f"{value.name}_row")


def row_or_ones(value: Tensor | None, x: Tensor, edit: Editor, hint: str) -> Tensor:
    """`row`, or where there is no constant a new one of that name, which multiplies by 1."""
    return edit.constant(np.ones(x.shape[-1], x.dtype), hint) if value is None else row(value, x, edit)
