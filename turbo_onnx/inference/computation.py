"""Inference rules of operators that compute: products, reductions, normalizations."""

from __future__ import annotations

import numpy as np

from turbo_onnx.dims import Dim, product
from turbo_onnx.inference.reading import Dims, Fact, Reading, Rule
from turbo_onnx.inference.values import elements


def _matmul(read: Reading) -> list[Fact]:
    left, right = read.shape(0), read.shape(1)
    dtype = read.fact(0).dtype
    if not left or not right:
        return [Fact(dtype)]
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    batch = read.broadcast(left[:-2], right[:-2])
    _contract(read, left[-1], right[-2:][0])
    return [Fact(dtype, None if batch is None else (*batch, *rows, *columns))]


def _gemm(read: Reading) -> list[Fact]:
    left, right = read.shape(0), read.shape(1)
    dtype = read.fact(0).dtype
    if left is None or right is None:
        return [Fact(dtype)]
    inner, outer = (-2, -1) if read.attr("transA", 0) else (-1, -2)
    contracted, columns = (-1, -2) if read.attr("transB", 0) else (-2, -1)
    _contract(read, left[inner], right[contracted])
    return [Fact(dtype, (left[outer], right[columns]))]


def _contract(read: Reading, one: Dim | int, other: Dim | int) -> None:
    """What a product sums over has one size in both operands, since a size of 1 is not broadcast there."""
    read.symbols.unify(one, other, certain=True)


def _reduced(read: Reading) -> Dims | None:
    shape = read.shape(0)
    if shape is None:
        return None
    if read.node.op in ("ArgMax", "ArgMin"):
        axes = [read.attr("axis", 0) % len(shape)]
    else:
        given = read.axes(1, len(shape))
        if given is None and read.has(1):
            return None
        axes = given or ([] if read.attr("noop_with_empty_axes", 0) else list(range(len(shape))))
    keep = read.attr("keepdims", 1)
    return tuple(1 if k in axes else size for k, size in enumerate(shape) if keep or k not in axes)


def _reduce(read: Reading) -> list[Fact]:
    fact = read.fact(0)
    shape = _reduced(read)
    items = read.items(0)
    value = None
    if (
        read.node.op == "ReduceProd"
        and items is not None
        and all(item is not None for item in items)
        and shape is not None
        and product(shape) == 1
    ):
        array = np.empty((1,) * len(shape) if shape else (), dtype=object)
        array.reshape(-1)[0] = product(items)
        value = elements(array)
    return [Fact(fact.dtype, shape, value)]


def _arg(read: Reading) -> list[Fact]:
    return [Fact(np.dtype(np.int64), _reduced(read))]


def _normalization(read: Reading) -> list[Fact]:
    fact = read.fact(0)
    results = [Fact(fact.dtype, fact.shape)]
    if len(read.node.outputs) > 1 and fact.shape is not None:
        axis = read.attr("axis", -1) % len(fact.shape)
        statistics = tuple(1 if k >= axis else size for k, size in enumerate(fact.shape))
        results += [Fact(np.dtype(np.float32), statistics)] * (len(read.node.outputs) - 1)
    return results


def _raised_attention(read: Reading) -> list[Fact]:
    query, key, value = (read.shape(index) for index in range(3))
    if query is None or value is None:
        return [Fact(read.fact(0).dtype)]
    if key is not None:
        _contract(read, key[-2], value[-2])
    return [Fact(read.fact(0).dtype, (*query[:-1], value[-1]))]


RULES: dict[str, Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(
        (
            "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
            "ReduceSumSquare"
        ).split(),
        _reduce,
    ),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "LayerNormalization": _normalization,
    "RMSNormalization": _normalization,
}

RAISED_RULES: dict[str, Rule] = {
    "Attention": _raised_attention,
    "RMSNormalization": _normalization,
    "Gelu": lambda read: [Fact(read.fact(0).dtype, read.shape(0))],
}
