"""Inference rules of operators that move elements about without computing on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from turbo_onnx.dims import Dim, divide_exactly, product
from turbo_onnx.inference.reading import UNKNOWN, Dims, Fact, Reading, Rule
from turbo_onnx.inference.slicing import slice_rule
from turbo_onnx.inference.values import Affine, Elements, Stack, Uniform, Value, elements

INT64 = np.dtype(np.int64)


def _identity(read: Reading) -> list[Fact]:
    return [read.fact(0)]


def _shape(read: Reading) -> list[Fact]:
    shape = read.shape(0)
    if shape is None:
        return [Fact(INT64, (read.fresh("rank"),))]
    start, end = read.attr("start", 0), read.attr("end", len(shape))
    part = shape[slice(start, end)]
    return [Fact(INT64, (len(part),), elements(_objects(list(part))))]


def _size(read: Reading) -> list[Fact]:
    shape = read.shape(0)
    return [Fact(INT64, (), None if shape is None else elements(_objects(product(shape))))]


def _objects(items: Any) -> np.ndarray:
    if isinstance(items, list):
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array
    array = np.empty((), dtype=object)
    array[()] = items
    return array


def _gather(read: Reading) -> list[Fact]:
    data, indices = read.fact(0), read.fact(1)
    if data.shape is None or indices.shape is None:
        return [Fact(data.dtype)]
    axis = read.attr("axis", 0) % max(len(data.shape), 1)
    shape = data.shape[:axis] + indices.shape + data.shape[axis + 1 :]
    value: Value | None = None
    wanted = read.ints(1)
    if isinstance(data.value, Elements) and wanted is not None:
        taken = np.take(data.value.items, np.array(wanted).reshape(_plain(indices.shape)), axis=axis)
        value = Elements(np.asarray(taken, dtype=object)) if np.ndim(taken) else elements(_objects(taken))
    elif isinstance(data.value, Uniform):
        value = data.value
    return [Fact(data.dtype, shape, value)]


def _plain(shape: Dims) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _gather_nd(read: Reading) -> list[Fact]:
    data, indices = read.fact(0), read.fact(1)
    batch = read.attr("batch_dims", 0)
    if data.shape is None or indices.shape is None or not isinstance(indices.shape[-1], int):
        return [Fact(data.dtype)]
    if batch == 0 and isinstance(indices.value, Stack):
        for part, size in zip(indices.value.parts, data.shape, strict=False):
            _unify_walked_axis(read, part, indices.shape[:-1], size)
    return [Fact(data.dtype, indices.shape[:-1] + data.shape[batch + indices.shape[-1] :])]


def _unify_walked_axis(read: Reading, part: Affine, shape: Dims, size: Dim | int) -> None:
    """An index that counts 0, 1, 2, … along one input's size addresses another input's axis: take them for one."""
    moving = [k for k, step in enumerate(part.coefficients) if step != 0]
    if part.offset == 0 and len(moving) == 1 and part.coefficients[moving[0]] == 1 and shape[moving[0]] != size:
        read.symbols.unify(shape[moving[0]], size, certain=True)


def _like_indices(read: Reading) -> list[Fact]:
    return [Fact(read.fact(0).dtype, read.shape(1))]


def _like_data(read: Reading) -> list[Fact]:
    return [Fact(read.fact(0).dtype, read.shape(0))]


def _concat(read: Reading) -> list[Fact]:
    facts = [fact if fact is not None else UNKNOWN for fact in read.inputs]
    dtype = next((fact.dtype for fact in facts if fact.dtype is not None), None)
    if any(fact.shape is None for fact in facts):
        return [Fact(dtype)]
    shapes = [fact.shape for fact in facts if fact.shape is not None]
    rank = len(shapes[0])
    axis = read.attr("axis", 0) % max(rank, 1)
    total: Dim | int = 0
    for shape in shapes:
        total = total + shape[axis]
    joined = []
    for k in range(rank):
        if k == axis:
            joined.append(total)
            continue
        sizes = [shape[k] for shape in shapes]
        plain = [size for size in sizes if isinstance(size, int)]
        size = plain[0] if plain else sizes[0]
        for other in sizes if not plain else []:
            if other != size:
                size = read.symbols.unify(size, other, certain=True) or size
        joined.append(size)
    value: Value | None = None
    values = [fact.value for fact in facts]
    if all(isinstance(v, Elements) for v in values):
        items = np.concatenate([v.items for v in values if isinstance(v, Elements)], axis=axis)
        value = Elements(items) if items.size <= 64 else None
    elif axis == rank - 1 and all(shape[axis] == 1 for shape in shapes):
        parts = [_without_last(v, rank) for v in values]
        if all(part is not None for part in parts):
            value = Stack(tuple(part for part in parts if part is not None))
    return [Fact(dtype, tuple(joined), value)]


def _without_last(value: Value | None, rank: int) -> Affine | None:
    if isinstance(value, Affine) and value.coefficients[-1] == 0:
        return Affine(value.offset, value.coefficients[:-1])
    if isinstance(value, Uniform):
        return Affine(value.item, (0,) * (rank - 1))
    return None


def _split(read: Reading) -> list[Fact]:
    data, count = read.fact(0), len(read.node.outputs)
    if data.shape is None:
        return [Fact(data.dtype)] * count
    axis = read.attr("axis", 0) % len(data.shape)
    sizes: Any = read.attr("split")
    if sizes is None:
        sizes = read.items(1) if read.has(1) else None
    if sizes is None:
        even = divide_exactly(data.shape[axis], count) if not read.has(1) else None
        sizes = [even if even is not None else read.fresh(f"split{k}") for k in range(count)]
    sizes = [read.fresh(f"split{k}") if size is None else size for k, size in enumerate(sizes)]
    return [Fact(data.dtype, (*data.shape[:axis], size, *data.shape[axis + 1 :])) for size in sizes]


def _with_axes(value: Value | None, coefficients: list[Any], shape: Dims) -> Value | None:
    if isinstance(value, Affine):
        return Affine(value.offset, tuple(coefficients))
    if isinstance(value, Elements):
        return Elements(value.items.reshape(_plain(shape)))
    return value if isinstance(value, Uniform) else None


def _unsqueeze(read: Reading) -> list[Fact]:
    data = read.fact(0)
    given = read.attr("axes")
    given = read.ints(1) if given is None else given
    if data.shape is None or given is None:
        return [Fact(data.dtype)]
    rank = len(data.shape) + len(given)
    axes = {int(axis) % rank for axis in given}
    sizes, coefficients = iter(data.shape), iter(data.value.coefficients if isinstance(data.value, Affine) else ())
    shape = tuple(1 if k in axes else next(sizes) for k in range(rank))
    steps = [0 if k in axes else next(coefficients, 0) for k in range(rank)]
    return [Fact(data.dtype, shape, _with_axes(data.value, steps, shape))]


def _squeeze(read: Reading) -> list[Fact]:
    data = read.fact(0)
    if data.shape is None:
        return [Fact(data.dtype)]
    axes = read.axes(1, len(data.shape))
    if axes is None:
        if read.has(1) or any(isinstance(size, Dim) for size in data.shape):
            return [Fact(data.dtype)]
        axes = [k for k, size in enumerate(data.shape) if size == 1]
    keep = [k for k in range(len(data.shape)) if k not in axes]
    shape = tuple(data.shape[k] for k in keep)
    steps = [data.value.coefficients[k] for k in keep] if isinstance(data.value, Affine) else []
    return [Fact(data.dtype, shape, _with_axes(data.value, steps, shape))]


def _reshape(read: Reading) -> list[Fact]:
    data, items = read.fact(0), read.items(1)
    if items is None:
        target = read.shape(1)
        if target is None or not isinstance(target[0], int):
            return [Fact(data.dtype)]
        items = [None] * target[0]
    shape = list(items)
    if not read.attr("allowzero", 0):
        for k, item in enumerate(shape):
            if isinstance(item, int) and item == 0:
                shape[k] = data.shape[k] if data.shape is not None and k < len(data.shape) else None
    open_ends = [k for k, item in enumerate(shape) if item is None or (isinstance(item, int) and item == -1)]
    if len(open_ends) == 1 and data.shape is not None:
        rest = product(item for k, item in enumerate(shape) if k != open_ends[0])
        shape[open_ends[0]] = divide_exactly(product(data.shape), rest) if rest != 0 else None
    for k in open_ends:
        if shape[k] is None or (isinstance(shape[k], int) and shape[k] == -1):
            shape[k] = read.fresh(f"reshape{k}")
    result = tuple(shape)
    return [Fact(data.dtype, result, _reshaped(data, result))]


def _reshaped(data: Fact, shape: Dims) -> Value | None:
    if isinstance(data.value, Uniform):
        return data.value
    if isinstance(data.value, Elements):
        return Elements(data.value.items.reshape(_plain(shape))) if all(isinstance(s, int) for s in shape) else None
    if isinstance(data.value, Affine) and data.shape is not None:
        real = [(size, c) for size, c in zip(data.shape, data.value.coefficients, strict=True) if size != 1]
        if [size for size, _ in real] == [size for size in shape if size != 1]:
            steps = iter(c for _, c in real)
            return Affine(data.value.offset, tuple(0 if size == 1 else next(steps) for size in shape))
        if is_iota(data.value, data.shape) and len(shape) == 1:
            return Affine(data.value.offset, (1,))
    return None


def is_iota(value: Value | None, shape: Dims) -> bool:
    """Whether the elements, in row-major order, are offset, offset + 1, offset + 2, and so on."""
    if isinstance(value, Elements):
        return all(item == k for k, item in enumerate(value.list()))
    if not isinstance(value, Affine) or len(value.coefficients) != len(shape):
        return False
    stride: Dim | int = 1
    for size, step in zip(reversed(shape), reversed(value.coefficients), strict=True):
        if size != 1 and step != stride:
            return False
        stride = stride * size
    return True


def _flatten(read: Reading) -> list[Fact]:
    data = read.fact(0)
    if data.shape is None:
        return [Fact(data.dtype, (read.fresh("flat0"), read.fresh("flat1")))]
    axis = read.attr("axis", 1)
    axis = axis + len(data.shape) if axis < 0 else axis
    shape = (product(data.shape[:axis]), product(data.shape[axis:]))
    return [Fact(data.dtype, shape, _reshaped(data, shape))]


def _transpose(read: Reading) -> list[Fact]:
    data = read.fact(0)
    if data.shape is None:
        return [Fact(data.dtype)]
    perm = read.attr("perm") or list(reversed(range(len(data.shape))))
    shape = tuple(data.shape[k] for k in perm)
    value: Value | None = data.value if isinstance(data.value, Uniform) else None
    if isinstance(data.value, Affine):
        value = Affine(data.value.offset, tuple(data.value.coefficients[k] for k in perm))
    elif isinstance(data.value, Elements):
        value = Elements(np.transpose(data.value.items, perm))
    return [Fact(data.dtype, shape, value)]


def _expand(read: Reading) -> list[Fact]:
    data, items = read.fact(0), read.items(1)
    if data.shape is None or items is None:
        rank = read.shape(1)
        if rank is None or not isinstance(rank[0], int):
            return [Fact(data.dtype)]
        items = [None] * rank[0]
    target = tuple(read.fresh(f"expand{k}") if item is None else item for k, item in enumerate(items))
    shape = read.broadcast(data.shape, target)
    value: Value | None = data.value if isinstance(data.value, Uniform) else None
    if shape is not None and isinstance(data.value, Affine):
        value = Affine(data.value.offset, (0,) * (len(shape) - len(data.value.coefficients)) + data.value.coefficients)
    elif shape is not None and isinstance(data.value, Elements):
        if all(isinstance(size, int) for size in shape) and product(shape) in range(65):
            value = Elements(np.broadcast_to(data.value.items, _plain(shape)))
        elif data.value.items.size == 1:
            value = Uniform(data.value.list()[0])
    return [Fact(data.dtype, shape, value)]


def _tile(read: Reading) -> list[Fact]:
    data, repeats = read.fact(0), read.items(1)
    if data.shape is None or repeats is None:
        shape = data.shape and tuple(read.fresh(f"tile{k}") for k in range(len(data.shape)))
        return [Fact(data.dtype, shape)]
    shape = tuple(
        read.fresh(f"tile{k}") if repeat is None else size * repeat
        for k, (size, repeat) in enumerate(zip(data.shape, repeats, strict=True))
    )
    return [Fact(data.dtype, shape, data.value if isinstance(data.value, Uniform) else None)]


RULES: dict[str, Rule] = {
    "Identity": _identity,
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _like_indices,
    "ScatterND": _like_data,
    "ScatterElements": _like_data,
    "Slice": slice_rule,
    "Concat": _concat,
    "Split": _split,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
}
