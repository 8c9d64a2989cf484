"""What a bias of attention adds where a token looks at itself.

A token that sees itself has something to attend to, so that what its padding holds cannot matter to it. Causal masks,
windows and relative positions all leave a token its own place; that is proven here from the arithmetic on positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.dims import Dim
from turbo_onnx.distances import affine_difference
from turbo_onnx.graph import Tensor, is_op, producer
from turbo_onnx.inference.values import Affine, Value, single
from turbo_onnx.shapes import Facts

Range = tuple[float, float]  # the least and the largest number; truth is 0 or 1


@dataclass(frozen=True)
class Known:
    """What is known of a graph's tensors beforehand.

    Attributes:
        facts: their shapes, and what their integers are.
        ranges: between which numbers a tensor's elements are, where that does not follow from what computes it.
    """

    facts: Facts
    ranges: Callable[[Tensor], Range | None] = lambda tensor: None


_ANY_TRUTH = (0.0, 1.0)
_DEPTH = 24
_LARGEST_CONSTANT = 1 << 22  # elements
_KEEPING = ("Cast", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_MOVING = ("Gather", "GatherElements", "Slice", "Split", "Tile", "Transpose", *_KEEPING)
_WITHIN_ONE = ("Cos", "Erf", "Sigmoid", "Sin", "Softmax", "Tanh")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equal": lambda a, b: bool(a == b),
    "Greater": lambda a, b: bool(a > b),
    "GreaterOrEqual": lambda a, b: bool(a >= b),
    "Less": lambda a, b: bool(a < b),
    "LessOrEqual": lambda a, b: bool(a <= b),
}


def on_diagonal(tensor: Tensor, known: Known, depth: int = _DEPTH) -> Range | None:
    """Between which numbers the elements are where the last two indices are equal; None where it is not known.

    Args:
        tensor: [..., S, S], or what broadcasts to that.
        known: of its graph.
        depth: how many nodes to look back.
    """
    along = _along(known.facts[tensor].value)
    if along is not None:
        return along
    node = producer(tensor)
    if isinstance(tensor, gs.Constant) or node is None or depth == 0 or _is_truth_of_numbers(node):
        return _without_looking(tensor)
    if is_op(node, *_COMPARISONS):
        left, right = (known.facts[operand].value for operand in node.inputs)
        difference = _along(affine_difference(left, right))
        if difference is None:
            difference = _minus(*(on_diagonal(operand, known, depth - 1) for operand in node.inputs))
        return _compared(node.op, difference)
    if is_op(node, *_WITHIN_ONE):
        return -1.0, 1.0
    if is_op(node, "Gather") and isinstance(node.inputs[0], gs.Constant):
        return _range_of(node.inputs[0])
    if is_op(node, "Cast"):
        return _cast(on_diagonal(node.inputs[0], known, depth - 1), node)
    if is_op(node, *_KEEPING) and _keeps_ends(node):
        return on_diagonal(node.inputs[0], known, depth - 1)
    if is_op(node, *_MOVING, *_SUMS):
        return anywhere(tensor, known, depth)
    return _computed(node, [on_diagonal(operand, known, depth - 1) for operand in node.inputs])


def anywhere(tensor: Tensor, known: Known, depth: int = _DEPTH) -> Range | None:
    """Between which numbers all elements are, whatever the model's inputs are; None where it is not known.

    Args:
        tensor: of numbers or truths.
        known: of its graph.
        depth: how many nodes to look back.
    """
    item = single(known.facts[tensor].value)
    if isinstance(item, int):
        return float(item), float(item)
    given = known.ranges(tensor)
    if given is not None:
        return given
    node = producer(tensor)
    if isinstance(tensor, gs.Constant) or node is None or depth == 0 or tensor.dtype == np.bool_:
        return _without_looking(tensor)
    if is_op(node, *_WITHIN_ONE):
        return -1.0, 1.0
    if is_op(node, "Cast"):
        return _cast(anywhere(node.inputs[0], known, depth - 1), node)
    if is_op(node, *_MOVING):
        return anywhere(node.inputs[0], known, depth - 1)
    if node.outputs[0] is not tensor:  # as the mean that a normalization takes away
        return None
    if is_op(node, *_SUMS):
        return _SUMS[node.op](node, known, depth)
    return _computed(node, [anywhere(operand, known, depth - 1) for operand in node.inputs])


def _cast(part: Range | None, node: gs.Node) -> Range | None:
    """Towards zero where the type has no fractions; what it cannot hold is infinite, or anything if it is whole."""
    dtype = node.outputs[0].dtype
    if part is None or not isinstance(dtype, np.dtype | type):
        return part
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        held = limits.min <= part[0] and part[1] <= limits.max
        return (float(int(part[0])), float(int(part[1]))) if held else None
    if np.dtype(dtype).kind != "f":
        return part
    largest = float(np.finfo(dtype).max)
    low, high = (number if abs(number) <= largest else np.copysign(np.inf, number) for number in part)
    return float(low), float(high)


def _matrix_product(node: gs.Node, known: Known, depth: int) -> Range | None:
    """Sums of as many products as the second operand has rows."""
    shape = known.facts[node.inputs[1]].shape
    rows = shape[-2] if shape is not None and len(shape) > 1 else None
    parts = [anywhere(operand, known, depth - 1) for operand in node.inputs]
    return None if not isinstance(rows, int) else _within(rows * _largest(parts[0]) * _largest(parts[1]))


def _normalization(node: gs.Node, known: Known, depth: int) -> Range | None:
    """Of n numbers with a mean square of at most 1, none is larger than √n."""
    shape = known.facts[node.inputs[0]].shape
    axis = node.attrs.get("axis", -1)
    normalized = () if shape is None else shape[axis if axis < 0 else axis - len(shape) :]
    sizes = [size for size in normalized if isinstance(size, int)]
    if shape is None or len(sizes) < len(normalized):
        return None
    gamma, *beta = (anywhere(operand, known, depth - 1) for operand in node.inputs[1:] if not operand.is_empty())
    return _within(prod(sizes) ** 0.5 * _largest(gamma) + sum(map(_largest, beta)))


def _largest(part: Range | None) -> float:
    return float("inf") if part is None else max(-part[0], part[1])


def _within(size: float) -> Range | None:
    return (-size, size) if size < float("inf") else None


_SUMS: dict[str, Callable[[gs.Node, Known, int], Range | None]] = {
    "LayerNormalization": _normalization,
    "MatMul": _matrix_product,
}


def _without_looking(tensor: Tensor) -> Range | None:
    if isinstance(tensor, gs.Constant):
        return _range_of(tensor)
    return _ANY_TRUTH if tensor.dtype == np.bool_ else None


def _is_truth_of_numbers(node: gs.Node) -> bool:
    return is_op(node, "Cast") and bool(node.outputs[0].dtype == np.bool_) and node.inputs[0].dtype != np.bool_


def _computed(node: gs.Node, operands: list[Range | None]) -> Range | None:
    if is_op(node, "Where") and operands[0] in ((0.0, 0.0), (1.0, 1.0)):
        return operands[1] if operands[0] == (1.0, 1.0) else operands[2]
    known = [operand for operand in operands if operand is not None]
    rule = _INTERVALS.get(node.op) if is_op(node, node.op) else None
    if rule is None or not known or len(known) != len(operands):
        return None
    found = rule([low for low, _ in known], [high for _, high in known])
    return None if np.isnan(found).any() else found


def _products(lows: list[float], highs: list[float]) -> Range:
    corners = [a * b for a in (lows[0], highs[0]) for b in (lows[1], highs[1])]
    return min(corners), max(corners)


def _quotients(lows: list[float], highs: list[float]) -> Range:
    """Those of integers are rounded towards zero."""
    if lows[1] <= 0 <= highs[1]:
        return float("nan"), float("nan")
    low, high = _products([lows[0], 1 / highs[1]], [highs[0], 1 / lows[1]])
    return min(low, 0.0), max(high, 0.0)


_INTERVALS: dict[str, Callable[[list[float], list[float]], Range]] = {
    "Where": lambda lows, highs: (min(lows[1:]), max(highs[1:])),
    "Add": lambda lows, highs: (sum(lows), sum(highs)),
    "Sub": lambda lows, highs: (lows[0] - highs[1], highs[0] - lows[1]),
    "Mul": _products,
    "Div": _quotients,
    "Abs": lambda lows, highs: (max(lows[0], -highs[0], 0.0), max(-lows[0], highs[0])),
    "Neg": lambda lows, highs: (-highs[0], -lows[0]),
    "Not": lambda lows, highs: (1 - highs[0], 1 - lows[0]),
    **dict.fromkeys(("And", "Min"), lambda lows, highs: (min(lows), min(highs))),
    **dict.fromkeys(("Or", "Max"), lambda lows, highs: (max(lows), max(highs))),
}


def _minus(left: Range | None, right: Range | None) -> Range | None:
    return None if left is None or right is None else (left[0] - right[1], left[1] - right[0])


def _compared(op: str, difference: Range | None) -> Range:
    """The truth of a comparison, given between which numbers its left side minus its right side is."""
    if difference is None or np.isnan(difference).any():
        return _ANY_TRUTH
    low, high = difference
    answers = {_COMPARISONS[op](number, 0) for number in (low, high)}
    if len(answers) > 1 or (op == "Equal" and low < 0 < high):
        return _ANY_TRUTH
    return (1.0, 1.0) if answers == {True} else (0.0, 0.0)


def _keeps_ends(node: gs.Node) -> bool:
    """Whether the last two axes of the operand are those of the result."""
    if is_op(node, "Cast", "Identity", "Expand"):
        return True
    before, after = node.inputs[0].shape, node.outputs[0].shape
    return bool(before and after and len(before) >= 2 and list(before[-2:]) == list(after[-2:]))


def _along(value: Value | None) -> Range | None:
    """The one number that the value is all along the diagonal."""
    item = single(value)
    if isinstance(item, Dim):
        return None
    if item is not None:
        return float(item), float(item)
    if not isinstance(value, Affine) or isinstance(value.offset, Dim):
        return None
    *others, row, column = (0, 0, *value.coefficients)
    if any(step != 0 for step in others) or row + column != 0:
        return None
    return float(value.offset), float(value.offset)


def _range_of(constant: gs.Constant) -> Range | None:
    if not isinstance(constant.dtype, np.dtype | type) or np.dtype(constant.dtype).kind not in "fiub":
        return None
    if not 0 < int(np.prod(constant.shape)) <= _LARGEST_CONSTANT:
        return None
    low, high = float(np.min(constant.values)), float(np.max(constant.values))
    return None if np.isnan(low) or np.isnan(high) else (low, high)
