"""What is known of an integer or boolean tensor's elements.

Exporters compute shapes, positions and masks at run time. Four forms are enough to see through that arithmetic:

- `Elements`: every element by itself, as a number, a symbolic size or unknown. For small tensors of known shape.
- `Uniform`: all elements are the same number or symbolic size, whatever the shape.
- `Affine`: element at index (i0, i1, …) is offset + Σ coefficient_k · i_k. What arange and its broadcasts give.
- `Stack`: affine tensors side by side on a last axis, as GatherND wants its indices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbo_onnx.dims import Dim, at_least, divide_exactly, is_non_negative

Item = Any  # int, bool, Dim, or None for an unknown element
LARGEST_ELEMENTS = 64


@dataclass(frozen=True, eq=False)
class Elements:
    """Every element by itself; `items` is an object array of the tensor's shape."""

    items: np.ndarray

    @property
    def known(self) -> bool:
        """Whether every element is a plain number."""
        return all(isinstance(item, (int, bool, np.integer, np.bool_)) for item in self.items.reshape(-1))

    def list(self) -> list[Item]:
        """The elements in row-major order."""
        return list(self.items.reshape(-1))


@dataclass(frozen=True)
class Uniform:
    """All elements are `item`."""

    item: Item


@dataclass(frozen=True)
class Affine:
    """offset + Σ coefficients[k] · i_k, one coefficient for each axis (0 where the axis does not matter)."""

    offset: Dim | int
    coefficients: tuple[Dim | int, ...]


@dataclass(frozen=True)
class Stack:
    """`parts[j]` at index (…, j), each part without the last axis."""

    parts: tuple[Affine, ...]


Value = Elements | Uniform | Affine | Stack


def elements(items: Any) -> Elements | None:
    """An `Elements` of nested lists, numbers or an array; None where it would be too large."""
    array = np.array(items, dtype=object) if not isinstance(items, np.ndarray) else items
    if array.size > LARGEST_ELEMENTS:
        return None
    if array.dtype != object:
        kind = bool if array.dtype == np.bool_ else int
        flat = [kind(item) for item in array.reshape(-1)]
        array = np.empty(array.shape, dtype=object)
        array.reshape(-1)[:] = flat
    return Elements(array)


def of_constant(array: np.ndarray) -> Value | None:
    """What a constant's value is: by elements if small, else affine if it is some arange or a fill."""
    if array.dtype.kind not in "iub":
        return None
    if array.size <= LARGEST_ELEMENTS:
        return elements(array)
    if array.size > 1 << 22 or array.dtype.kind == "b":
        first = array.reshape(-1)[0]
        return Uniform(first.item()) if array.size <= 1 << 22 and bool((array == first).all()) else None
    origin = int(array[(0,) * array.ndim])
    steps = [_step(array, axis, origin) for axis in range(array.ndim)]
    last = origin + sum(step * (size - 1) for step, size in zip(steps, array.shape, strict=True))
    if last != int(array[(-1,) * array.ndim]):  # so nearly all weights of integers are told from an arange at once
        return None
    held = np.iinfo(np.int64)
    if not all(held.min <= number <= held.max for number in (origin, *steps)):  # the comparison cannot hold them
        return None
    expected = np.full(array.shape, origin, dtype=np.int64)
    for axis, (step, size) in enumerate(zip(steps, array.shape, strict=True)):
        shape = [1] * array.ndim
        shape[axis] = size
        expected = expected + step * np.arange(size, dtype=np.int64).reshape(shape)
    if not bool((expected == array).all()):
        return None
    return Affine(origin, tuple(steps)) if any(steps) else Uniform(origin)


def _step(array: np.ndarray, axis: int, origin: int) -> int:
    """What the second element along an axis is more than the first."""
    return int(array[tuple(int(k == axis) for k in range(array.ndim))]) - origin if array.shape[axis] > 1 else 0


def representable(value: Value | None, dtype: Any) -> Value | None:
    """What is left of the value in a tensor of the type, whose numbers would wrap around: only what surely fits it.

    Sizes are taken to fit 32 bits.
    """
    if value is None or not isinstance(dtype, np.dtype) or dtype.kind == "b":
        return value
    if dtype.kind not in "iu":
        return None
    limits = np.iinfo(dtype)

    def fits(item: Item) -> bool:
        if isinstance(item, Dim):
            return dtype.itemsize >= 4 and (dtype.kind == "i" or is_non_negative(item))
        return item is not None and limits.min <= item <= limits.max

    if isinstance(value, Elements):
        if all(item is None or fits(item) for item in value.list()):
            return value
        kept = np.frompyfunc(lambda item: item if fits(item) else None, 1, 1)(value.items)
        return Elements(np.asarray(kept, dtype=object))
    if isinstance(value, Uniform):
        return value if fits(value.item) else None
    return value if dtype.kind == "i" and dtype.itemsize >= 4 else None


def broadcastable(value: Value | None, shape: Sequence[Dim | int] | None) -> Value | None:
    """The value of a tensor of the shape, in which no index counts along axes of size 1: they may be broadcast."""
    if not isinstance(value, Affine) or shape is None or len(shape) != len(value.coefficients):
        return value
    return Affine(
        value.offset, tuple(0 if size == 1 else step for step, size in zip(value.coefficients, shape, strict=True))
    )


def single(value: Value | None) -> Item:
    """The one item that all elements share, or None."""
    if isinstance(value, Uniform):
        return value.item
    if isinstance(value, Elements) and value.items.size:
        first, *rest = value.list()
        return first if all(item is not None and item == first for item in rest) else None
    return None


def combine(function: Callable[..., Item], *operands: Value | None, rank: int) -> Value | None:
    """Apply an element-wise function of items; the items may be symbolic, and unknown gives unknown."""
    if all(isinstance(value, Elements) for value in operands):
        guarded = np.frompyfunc(_guarded(function), len(operands), 1)
        arrays = [value.items for value in operands if isinstance(value, Elements)]
        result = np.asarray(guarded(*arrays), dtype=object)
        return Elements(result) if result.size <= LARGEST_ELEMENTS else None
    items = [single(value) for value in operands]
    if all(item is not None for item in items):
        result_item = _guarded(function)(*items)
        return None if result_item is None else Uniform(result_item)
    return _combine_affine(function, operands, rank)


def _guarded(function: Callable[..., Item]) -> Callable[..., Item]:
    def run(*items: Item) -> Item:
        if any(item is None for item in items):
            return None
        try:
            return function(*items)
        except (ArithmeticError, TypeError, ValueError):
            return None

    return run


def _as_affine(value: Value | None, rank: int) -> Affine | None:
    item = single(value)
    if item is not None and not isinstance(item, bool):
        return Affine(item, (0,) * rank)
    if isinstance(value, Affine) and len(value.coefficients) <= rank:
        return Affine(value.offset, (0,) * (rank - len(value.coefficients)) + value.coefficients)
    return None


def _combine_affine(function: Callable[..., Item], operands: Sequence[Value | None], rank: int) -> Value | None:
    if len(operands) != 2:
        return None
    left, right = (_as_affine(value, rank) for value in operands)
    if left is None or right is None:
        return None
    if function in (operator.add, operator.sub):
        return Affine(
            function(left.offset, right.offset),
            tuple(function(a, b) for a, b in zip(left.coefficients, right.coefficients, strict=True)),
        )
    if function is operator.mul:
        for scaled, factor in ((left, right), (right, left)):
            if not any(factor.coefficients):
                by = factor.offset
                return Affine(scaled.offset * by, tuple(c * by for c in scaled.coefficients))
        return None
    decided = compare_affine(function, left, right)
    return None if decided is None else Uniform(decided)


def compare_affine(function: Callable[..., Item], left: Affine, right: Affine) -> bool | None:
    """A comparison that has the same answer at every index, or None. Indices are at least 0."""
    difference = Affine(
        left.offset - right.offset,
        tuple(a - b for a, b in zip(left.coefficients, right.coefficients, strict=True)),
    )
    growing = all(is_non_negative(c) for c in difference.coefficients)
    if growing and function is greater_or_equal and is_non_negative(difference.offset):
        return True
    if growing and function is greater and at_least(difference.offset, 1):
        return True
    if growing and function in (less, equal) and at_least(difference.offset, 0 if function is less else 1):
        return False
    if growing and function is less_or_equal and at_least(difference.offset, 1):
        return False
    return None


def greater_or_equal(a: Item, b: Item) -> Item:
    """Whether a ≥ b, or None where it cannot be told."""
    return True if at_least(a, b) else False if at_least(b, a + 1) else None


def greater(a: Item, b: Item) -> Item:
    """Whether a > b, or None where it cannot be told."""
    return True if at_least(a, b + 1) else False if at_least(b, a) else None


def less(a: Item, b: Item) -> Item:
    """Whether a < b, or None where it cannot be told."""
    return greater(b, a)


def less_or_equal(a: Item, b: Item) -> Item:
    """Whether a ≤ b, or None where it cannot be told."""
    return greater_or_equal(b, a)


def equal(a: Item, b: Item) -> Item:
    """Whether a = b, or None where it cannot be told."""
    if a == b:
        return True
    return False if at_least(a, b + 1) or at_least(b, a + 1) else None


def maximum(a: Item, b: Item) -> Item:
    """The larger, or None where it cannot be told."""
    return a if at_least(a, b) else b if at_least(b, a) else None


def minimum(a: Item, b: Item) -> Item:
    """The smaller, or None where it cannot be told."""
    return b if at_least(a, b) else a if at_least(b, a) else None


def divide(a: Item, b: Item) -> Item:
    """The quotient a / b as ONNX divides integers (towards zero), or None where it cannot be told."""
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            return None
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    return divide_exactly(a, b)


def modulo(a: Item, b: Item) -> Item:
    """The remainder a mod b, with the divisor's sign, or None where it cannot be told."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else None
    return 0 if divide_exactly(a, b) is not None else None
