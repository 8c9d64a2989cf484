"""How a node computes the same when the leading axes of what it reads change places.

Between the split into heads and attention stand operators that treat every head of every token by itself: rotary
embeddings, normalization of queries and keys, the repetition of keys for groups of queries. They work on [B, H, S, D],
and would work on [B, S, H, D] just as well. A rule says how to write such a node there: which operands change the order
of their axes and which stay, and the attributes and constants that name axes.

An order is the `perm` of a Transpose without the axes at its end that stay where they are: (0, 2, 1) for (0, 2, 1, 3).
The axes behind it may be regrouped freely, so a rule looks at the leading ones only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from turbo_onnx.attributes import UNKNOWN, read
from turbo_onnx.graph import Tensor, input_or_none, integers
from turbo_onnx.layout import has_standard_meaning, is_elementwise

Order = tuple[int, ...]
_ON_LAST_AXES = ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceMax", "ReduceMin")


@dataclass(frozen=True)
class Moved:
    """How to write a node for operands whose leading axes are in another order.

    Attributes:
        moves: for each operand whether its axes change places, too.
        attrs: its attributes there.
        operands: constants (lists of integers) that replace operands there, by index.
    """

    moves: tuple[bool, ...]
    attrs: dict[str, Any]
    operands: dict[int, list[int]] = field(default_factory=dict)

    @property
    def moved_operands(self) -> list[int]:
        """The indices of the operands whose axes change places."""
        return [index for index, moves in enumerate(self.moves) if moves]


def order_of(transpose: gs.Node) -> Order | None:
    """The order of a Transpose; None where its `perm` is not given."""
    perm = transpose.attrs.get("perm")
    if perm is None:
        return None
    order = [int(axis) for axis in perm]
    while order and order[-1] == len(order) - 1:
        order.pop()
    return tuple(order)


def inverse(order: Order) -> Order:
    """The order that undoes it."""
    return tuple(order.index(axis) for axis in range(len(order)))


def reordered(shape: Sequence[Any], order: Order) -> list[Any]:
    """The sizes in the given order."""
    return [*(shape[axis] for axis in order), *shape[len(order) :]]


def stays_in_line(shape: Sequence[Any], order: Order) -> bool:
    """Whether the tensor's elements stay in line: at most one of the axes that move has more than one of them."""
    return sum(1 for position, axis in enumerate(order) if position != axis and shape[axis] != 1) <= 1


def moved(node: gs.Node, order: Order, opset: int) -> Moved | None:
    """How to write the node if the axes of its results are to be in the given order; None if that is not known.

    Args:
        node: with the shapes of all operands and results known.
        order: by which its results are to be transposed.
        opset: the version of the standard operators.
    """
    results = [tensor for tensor in node.outputs if not tensor.is_empty()]
    known = [*results, *(tensor for tensor in node.inputs if not _is_absent(tensor))]
    if any(tensor.shape is None or None in tensor.shape for tensor in known):
        return None
    if any(len(tensor.shape) < len(order) for tensor in results):
        return None
    if is_elementwise(node):
        return _elementwise(node, order)
    rule = _RULES.get(node.op) if has_standard_meaning(node) else None
    if rule is None or len(node.inputs[0].shape) < len(order):
        return None
    return rule(node, order, opset)


def _is_absent(tensor: Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and bool(tensor.is_empty())


def _first_moves(node: gs.Node) -> tuple[bool, ...]:
    return (True, *([False] * (len(node.inputs) - 1)))


def _elementwise(node: gs.Node, order: Order) -> Moved:
    behind = len(node.outputs[0].shape) - len(order)  # an operand of as few axes as that is the same everywhere else
    moves = tuple(not _is_absent(tensor) and len(tensor.shape) > behind for tensor in node.inputs)
    return Moved(moves, dict(node.attrs))


def _on_last_axes(node: gs.Node, order: Order, opset: int) -> Moved | None:
    rank = len(node.inputs[0].shape)
    axis = int(node.attrs.get("axis", -1)) % rank
    if axis < len(order) or (opset < 13 and node.op in ("Softmax", "LogSoftmax")):
        return None
    if any(len(tensor.shape) > rank - axis for tensor in node.inputs[1:] if not _is_absent(tensor)):
        return None
    return Moved(_first_moves(node), dict(node.attrs) | {"axis": axis})


def _reduction(node: gs.Node, order: Order, opset: int) -> Moved | None:
    axes = read(node, "axes", opset)
    if not axes or axes is UNKNOWN or not int(node.attrs.get("keepdims", 1)):
        return None
    there = [_place(axis % len(node.inputs[0].shape), order) for axis in axes]
    if "axes" in node.attrs:
        return Moved((True,), dict(node.attrs) | {"axes": there})
    return Moved(_first_moves(node), dict(node.attrs), {1: there})


def _place(axis: int, order: Order) -> int:
    return order.index(axis) if axis < len(order) else axis


def _along_axis(node: gs.Node, order: Order, opset: int) -> Moved:
    axis = int(node.attrs.get("axis", 0)) % len(node.outputs[0].shape)
    moves = _first_moves(node) if node.op == "Split" else (True,) * len(node.inputs)
    return Moved(moves, dict(node.attrs) | {"axis": _place(axis, order)})


def _sliced(node: gs.Node, order: Order, opset: int) -> Moved | None:
    rank = len(node.inputs[0].shape)
    starts, axes = integers(input_or_none(node, 1)), integers(input_or_none(node, 3))
    if axes is None and (starts is None or input_or_none(node, 3) is not None):
        return None
    axes = list(range(len(starts or ()))) if axes is None else axes
    if len(node.inputs) < 4:
        return None
    return Moved(_first_moves(node), dict(node.attrs), {3: [_place(axis % rank, order) for axis in axes]})


def _product(node: gs.Node, order: Order, opset: int) -> Moved | None:
    rows, weight = node.inputs
    if isinstance(rows, gs.Constant) or len(weight.shape) != 2 or len(rows.shape) <= len(order):
        return None
    return Moved((True, False), {})


def _regrouped(node: gs.Node, order: Order, opset: int) -> Moved | None:
    """Reshape and its like, where they leave the leading axes alone."""
    lead = len(order)
    before, after = node.inputs[0].shape, node.outputs[0].shape
    rest = after[lead:]
    whole = all(isinstance(size, int) and size > 0 for size in (*before[lead:], *rest))
    if before[:lead] != after[:lead] or not whole:
        return None
    if node.op == "Reshape":
        return Moved((True, False), {}, {1: [0] * lead + rest})
    if node.op == "Expand":
        if len(before) != len(after):
            return None
        return Moved((True, False), {}, {1: [1] * lead + rest})
    axes = read(node, "axes", opset)
    if not axes or axes is UNKNOWN:
        return None
    axes = [axis % max(len(before), len(after)) for axis in axes]
    if min(axes) < lead:
        return None
    if "axes" in node.attrs:
        return Moved((True,), {"axes": axes})
    return Moved((True, False), {}, {1: axes})


_RULES: dict[str, Callable[[gs.Node, Order, int], Moved | None]] = {
    **dict.fromkeys(_ON_LAST_AXES, _on_last_axes),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("Concat", "Split"), _along_axis),
    **dict.fromkeys(("Reshape", "Expand", "Unsqueeze", "Squeeze"), _regrouped),
    "Slice": _sliced,
    "MatMul": _product,
}
