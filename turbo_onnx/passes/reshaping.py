"""Nodes that move a tensor's elements without changing them, made with as few nodes as it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from turbo_onnx.graph import Editor, Tensor, is_op, produced_by


def transposed(edit: Editor, tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The tensor with its axes in the given order: composed with the Transpose that makes it, nothing where identity.

    A Transpose of the same tensor and order that is there already is taken.
    """
    order = tuple(order)
    source = produced_by(tensor, "Transpose")
    while source is not None and order != tuple(range(len(order))):
        permutation = source.attrs.get("perm") or tuple(range(len(order)))[::-1]
        order = tuple(permutation[axis] for axis in order)
        tensor = source.inputs[0]
        source = produced_by(tensor, "Transpose")
    if order == tuple(range(len(order))):
        return tensor
    for reader in tensor.outputs:
        if is_op(reader, "Transpose") and tuple(reader.attrs.get("perm") or ()) == order:
            return reader.outputs[0]
    shape = None if tensor.shape is None else [tensor.shape[axis] for axis in order]
    return edit.node("Transpose", [tensor], attrs={"perm": list(order)}, dtype=tensor.dtype, shape=shape)


def reshaped(edit: Editor, tensor: Tensor, target: Sequence[int], shape: Sequence[int | str] | None) -> Tensor:
    """A Reshape to a constant target, in which 0 copies a size and -1 takes the rest, of the given resulting shape."""
    where = edit.constant(np.array(target, np.int64), "reshape_target")
    return edit.node("Reshape", [tensor, where], dtype=tensor.dtype, shape=None if shape is None else list(shape))


def unsqueezed(edit: Editor, tensor: Tensor, axes: Sequence[int], opset: int) -> Tensor:
    """The tensor with new axes of size 1 at the given positions of the result."""
    return _unit_axes(edit, "Unsqueeze", tensor, axes, opset)


def squeezed(edit: Editor, tensor: Tensor, axes: Sequence[int], opset: int) -> Tensor:
    """The tensor without the given axes, whose size is 1."""
    return _unit_axes(edit, "Squeeze", tensor, axes, opset)


def _unit_axes(edit: Editor, op: str, tensor: Tensor, axes: Sequence[int], opset: int) -> Tensor:
    shape = None
    if tensor.shape is not None:
        shape = list(tensor.shape)
        for axis in sorted(axes, reverse=op == "Squeeze"):
            if op == "Squeeze":
                del shape[axis]
            else:
                shape.insert(axis, 1)
    if opset < 13:
        return edit.node(op, [tensor], attrs={"axes": list(axes)}, dtype=tensor.dtype, shape=shape)
    where = edit.constant(np.array(axes, np.int64), "axes")
    return edit.node(op, [tensor, where], dtype=tensor.dtype, shape=shape)
