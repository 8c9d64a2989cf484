"""Whether a model is only right for a mask of zeros and ones, and how such a mask comes to where it is checked.

What a graph makes of a mask is known for 0 and 1 (`masks.py`). A mask that is a graph input may hold other numbers, and
the original then computes with these: 0.5 weighs a token, -1 hides it only half. Where the graph asks for nothing but
whether an element is zero, any number is as good as 1. Everywhere else the packed model would silently give other
numbers, so that RemovePadding refuses such a mask when it sees one.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.remove_padding.spec import MASK_TYPES
from turbo_onnx.graph import Editor, Tensor, consumers, is_op, scalar_value
from turbo_onnx.passes.packed_rows import onnx_name

_VIEWS = ("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_TAKE_NO_VALUES = ("Shape", "Size")
_TAKE_ANY_VALUES = ("CumSum",)  # no function of single elements: it is computed as before


def must_be_binary(mask: Tensor) -> bool:
    """Whether something reads of the mask more than which elements are zero.

    Args:
        mask: a graph input, or a computed boolean tensor.
    """
    if np.dtype(mask.dtype).kind == "b":
        return False
    unsigned = np.dtype(mask.dtype).kind == "u"
    seen: set[int] = set()
    stack = [mask]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for reader in consumers(current):
            if is_op(reader, *_VIEWS) and reader.inputs[0] is current:
                stack.extend(reader.outputs)
            elif not _asks_for_zeros(reader, current, unsigned=unsigned):
                return True
    return False


def _asks_for_zeros(reader: gs.Node, mask: Tensor, *, unsigned: bool) -> bool:
    """Whether the node cannot tell one number that is not zero from another, or is not understood as a mask's."""
    if is_op(reader, *_TAKE_NO_VALUES, *_TAKE_ANY_VALUES):
        return True
    if is_op(reader, "Cast"):
        return bool(reader.attrs["to"] == onnx.TensorProto.BOOL)
    others = [operand for operand in reader.inputs if operand is not mask]
    if len(others) != 1 or scalar_value(others[0]) != 0:
        return False
    return is_op(reader, "Equal") or (unsigned and is_op(reader, "Greater") and reader.inputs[0] is mask)


def is_taken(mask: Tensor) -> bool:
    """Whether RemovePadding takes a mask of this type."""
    return f"tensor({onnx_name(mask.dtype)})" in MASK_TYPES


def widened(edit: Editor, mask: Tensor) -> Tensor:
    """The mask in a type that RemovePadding takes, which is 0, 1 or neither where the mask is."""
    if is_taken(mask):
        return mask
    dtype = np.dtype(mask.dtype)
    wide = np.dtype(np.float32 if dtype.kind == "f" else np.int32 if dtype.itemsize < 4 else np.int64)
    return _cast(edit, mask, wide)


def opposite(edit: Editor, mask: Tensor) -> Tensor:
    """1 for 0 and 0 for 1, and every other number as it is."""
    wide = widened(edit, mask)
    dtype = np.dtype(wide.dtype)
    zero, one = (edit.constant(np.array(number, dtype), f"{mask.name}_{number}") for number in (0, 1))

    def chosen(number: Tensor, instead: Tensor, otherwise: Tensor) -> Tensor:
        found = edit.node("Equal", [wide, number], hint=f"{mask.name}_is_{number.name}", dtype=np.dtype(np.bool_),
                          shape=mask.shape)  # fmt: skip
        return edit.node("Where", [found, instead, otherwise], hint=f"{mask.name}_opposite", dtype=dtype,
                         shape=mask.shape)  # fmt: skip

    return chosen(one, zero, chosen(zero, one, wide))


def truth(edit: Editor, mask: Tensor) -> Tensor:
    """Whether the mask's elements are not zero."""
    return mask if np.dtype(mask.dtype).kind == "b" else _cast(edit, mask, np.dtype(np.bool_))


def _cast(edit: Editor, mask: Tensor, dtype: np.dtype) -> Tensor:
    to = int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
    return edit.node("Cast", [mask], attrs={"to": to}, hint=f"{mask.name}_{dtype}", dtype=dtype, shape=mask.shape)
