"""The inference rule of Slice: how long each cut axis is, and which elements are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbo_onnx.dims import Dim, at_least
from turbo_onnx.inference.reading import Fact, Reading
from turbo_onnx.inference.values import Affine, Elements, Item, Uniform, Value

FAR = (1 << 31) - 1  # bounds from this on mean "to the end"


@dataclass(frozen=True)
class _Bounds:
    """What a Slice node cuts: one entry for each axis that it names; None where it is not known."""

    starts: Sequence[Item] | None
    ends: Sequence[Item] | None
    axes: Sequence[int] | None
    steps: Sequence[int] | None


def slice_rule(read: Reading) -> list[Fact]:
    """Slice, with its bounds as attributes (before opset 10) or as operands."""
    data = read.fact(0)
    if data.shape is None:
        return [Fact(data.dtype)]
    bounds = _bounds(read)
    rank = len(data.shape)
    if bounds.axes is None or bounds.starts is None or bounds.ends is None or bounds.steps is None:
        unknown = range(rank) if bounds.axes is None else [axis % rank for axis in bounds.axes]
        shape = tuple(read.fresh(f"slice{a}") if a in unknown else size for a, size in enumerate(data.shape))
        return [Fact(data.dtype, shape)]
    sizes, value = list(data.shape), data.value
    for axis, start, end, step in zip(bounds.axes, bounds.starts, bounds.ends, bounds.steps, strict=True):
        axis %= rank
        sizes[axis], value = _cut(read, sizes[axis], value, axis, start, end, step)
    return [Fact(data.dtype, tuple(sizes), value)]


def _bounds(read: Reading) -> _Bounds:
    if not read.has(1):
        starts = read.attr("starts")
        return _Bounds(starts, read.attr("ends"), read.attr("axes", range(len(starts))), [1] * len(starts))
    starts, ends = read.items(1), read.items(2)
    count = len(starts or ends or ())
    axes = read.ints(3) if read.has(3) else range(count)
    return _Bounds(starts, ends, axes, read.ints(4) if read.has(4) else [1] * count)


def _cut(
    read: Reading, size: Dim | int, value: Value | None, axis: int, start: Item, end: Item, step: int
) -> tuple[Dim | int, Value | None]:
    """The new size of one axis, and what is known of the elements then."""
    if isinstance(size, int) and all(isinstance(item, int) for item in (start, end)):
        window = range(*slice(start, None if end <= -FAR and step < 0 else end, step).indices(size))
        if isinstance(value, Elements):
            return len(window), Elements(np.take(value.items, np.array(window, dtype=np.int64), axis=axis))
        return len(window), _shifted(value, axis, window.start, step)
    if isinstance(start, Dim) and -start in (size, read.symbols.limits.get(str(size))):
        start = 0  # as far from the end as it is long at the most
    first, last = _from_front(start, size), _from_front(end, size)
    if step == 1 and first is not None and last is not None and last - first == 1:
        return 1, _shifted(value, axis, first, 1)  # one element, which is taken to be there
    if step == 1 and isinstance(size, Dim) and isinstance(start, int) and start < 0 and last == size:
        part = read.symbols.at_most(size, -start)  # as much of the end as there is
        if part is not None:
            return part, None
    if step != 1 or first is None or last is None or not at_least(first, 0):
        whole = step == 1 and first == 0 and end is not None and isinstance(end, int) and end >= FAR
        return (size, value) if whole else (read.fresh(f"slice{axis}"), None)
    value = _shifted(value, axis, first, 1)
    if at_least(size, last) and at_least(last, first):
        return last - first, value
    if at_least(last, size) and at_least(size, first):
        return size - first, value
    part = read.fresh(f"slice{axis}")
    if isinstance(size, int) and size > 1 and isinstance(part, Dim):
        read.symbols.limits[str(part)] = last - first
    return part, value if first == 0 else None


def _from_front(item: Item, size: Dim | int) -> Any:
    """A bound as a size from the front: negative numbers count from the end."""
    if isinstance(item, int):
        if item >= FAR:
            return size
        if item < 0:
            return size + item if isinstance(size, Dim) else max(0, size + item)
    return item


def _shifted(value: Value | None, axis: int, start: Any, step: int) -> Value | None:
    """The value of every `step`-th element from `start` on; None for elements one by one, which have a fixed size."""
    if isinstance(value, Uniform):
        return value
    if isinstance(value, Affine) and axis < len(value.coefficients):
        by = value.coefficients[axis]
        scaled = tuple(c * step if k == axis else c for k, c in enumerate(value.coefficients))
        return Affine(value.offset + by * start, scaled)
    return None
