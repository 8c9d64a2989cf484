"""Compare half precision and float32 on every number that could tell them apart, where a tensor is made of one other.

What exporters make of a padding mask (a cast, `1 - mask`, a comparison, a product with a huge number) is a function of
one integer for each element, or of one number in half precision. Such a function is computed here twice, with each
result rounded to half precision and without, at all 65536 numbers of the type, or at integers: all that half precision
can tell apart, and powers of two beyond. Only operators that IEEE 754 defines to the last bit are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import STANDARD_DOMAINS, Tensor, is_op, producer, scalar_value
from turbo_onnx.numpy_operators import ELEMENTWISE
from turbo_onnx.precision import HalfType, half_type

Array = np.ndarray[Any, Any]
_LAST_INTEGER = 1 << 17  # float16 ends below it, and bfloat16 has long begun to round
_DEPTH = 32
_ELEMENTWISE: dict[str, Callable[..., Any]] = {**ELEMENTWISE, "Div": np.divide, "IsInf": np.isinf}
_SAME_ELEMENTS = "Expand Flatten Gather GatherElements GatherND Reshape Slice Squeeze Tile Transpose Unsqueeze".split()


@dataclass(frozen=True)
class Table:
    """A tensor's element as a function of one element of another tensor.

    Attributes:
        source: the other tensor; None for a constant.
        place: the tensor whose elements' order it has. Two tensors are functions of the same element at each position
            only if they have the same place.
        half: [probes], or one number: with every result rounded to half precision, as the model is written.
        wide: likewise, with float32 in place of half precision.
    """

    source: Tensor | None
    place: Tensor | None
    half: Array
    wide: Array


class Probes:
    """Follows tensors of one graph.

    Args:
        only: probe integers with these values and nothing else; None for all that there are.
    """

    def __init__(self, only: tuple[int, ...] | None = None) -> None:
        self._only = only
        self._known: dict[int, tuple[Tensor, Table | None]] = {}

    def of(self, tensor: Tensor) -> Table | None:
        """The tensor's table; None where it is not known to be a function of one tensor."""
        return self._of(tensor, _DEPTH)

    def of_decision(self, node: gs.Node) -> Table | None:
        """What the node gives, as a function of what it reads; None where that is not known.

        `of` takes integers and booleans that it cannot follow any further for what others are functions of.
        """
        return self._computed(node, _DEPTH)

    def _of(self, tensor: Tensor, depth: int) -> Table | None:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, self._find(tensor, depth) if depth else None)
        return self._known[id(tensor)][1]

    def _find(self, tensor: Tensor, depth: int) -> Table | None:
        if isinstance(tensor, gs.Constant):
            number = scalar_value(tensor)
            if number is None:
                return None
            value = np.array(number, tensor.dtype)
            return Table(None, None, value, value.astype(_wide(value.dtype)))
        node = producer(tensor)
        found = self._computed(node, depth) if node is not None and node.domain in STANDARD_DOMAINS else None
        return found if found is not None else self._source(tensor)

    def _source(self, tensor: gs.Variable) -> Table | None:
        """The tensor as a function of itself: integers, or the model's own inputs in half precision."""
        dtype = tensor.dtype
        half = half_type(dtype)
        if half is not None:
            if producer(tensor) is not None or self._only is not None:
                return None
            numbers = np.arange(1 << 16, dtype=np.uint16).view(half.dtype)
            return Table(tensor, tensor, numbers, numbers.astype(np.float32))
        if not isinstance(dtype, (np.dtype, type)) or np.dtype(dtype).kind not in "iub":
            return None
        integers = _integers(np.dtype(dtype)) if self._only is None else np.array(self._only, dtype)
        return Table(tensor, tensor, integers, integers)

    def _computed(self, node: gs.Node, depth: int) -> Table | None:
        if is_op(node, *_SAME_ELEMENTS):
            table = self._of(node.inputs[0], depth - 1)
            return None if table is None else Table(table.source, node.outputs[0], table.half, table.wide)
        if is_op(node, "Cast"):
            table = self._of(node.inputs[0], depth - 1)
            dtype = node.outputs[0].dtype
            if table is None or not _computes(dtype):
                return None
            with np.errstate(all="ignore"):
                return Table(table.source, table.place, _cast(table.half, dtype), _cast(table.wide, _wide(dtype)))
        function = _ELEMENTWISE.get(node.op)
        dtype = node.outputs[0].dtype
        if function is None or not _computes(dtype):
            return None
        return self._elementwise(node, function, dtype, depth)

    def _elementwise(self, node: gs.Node, function: Callable[..., Any], dtype: Any, depth: int) -> Table | None:
        operands = [self._of(tensor, depth - 1) for tensor in node.inputs]
        if any(operand is None for operand in operands) or (node.op == "Div" and np.dtype(dtype).kind in "iu"):
            return None
        tables = [operand for operand in operands if operand is not None]
        varying = [table for table in tables if table.source is not None]
        if any(table.source is not varying[0].source or table.place is not varying[0].place for table in varying[1:]):
            return None
        with np.errstate(all="ignore"):
            half = np.asarray(function(*(table.half for table in tables))).astype(dtype)
            wide = np.asarray(function(*(table.wide for table in tables))).astype(_wide(dtype))
        first = varying[0] if varying else tables[0]
        return Table(first.source, first.place, half, wide)


def _computes(dtype: Any) -> bool:
    """Whether NumPy computes in the type as ONNX Runtime does."""
    if half_type(dtype) is not None:
        return True
    return isinstance(dtype, (np.dtype, type)) and np.dtype(dtype).kind in "iubf"


def _wide(dtype: Any) -> np.dtype[Any]:
    return np.dtype(np.float32) if half_type(dtype) is not None else np.dtype(dtype)


def _cast(values: Array, dtype: Any) -> Array:
    """Numbers beyond an integer type become whatever NumPy gives: the same for the same numbers."""
    return np.asarray(values).astype(dtype)


def _integers(dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "b":
        return np.array([False, True])
    limits = np.iinfo(dtype)
    bits = [1 << bit for bit in range(8 * dtype.itemsize)]
    candidates = [*range(-_LAST_INTEGER, _LAST_INTEGER + 1), *bits, *(-bit for bit in bits)]
    return np.array(sorted({n for n in candidates if limits.min <= n <= limits.max}), dtype)


def same_decision(table: Table | None) -> bool:
    """Whether a table of integers or booleans is the same in half precision and in float32."""
    return table is not None and bool(np.array_equal(np.asarray(table.half), np.asarray(table.wide)))


def overflows(table: Table | None, half: HalfType) -> bool:
    """Whether a number is infinite only because half precision ends before it."""
    if table is None or table.source is None:
        return False
    narrow, wide = np.asarray(table.half).astype(np.float32), np.asarray(table.wide).astype(np.float32)
    return bool(np.any(np.isinf(narrow) & np.isfinite(wide) & (np.abs(wide) > half.largest)))
