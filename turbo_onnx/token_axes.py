"""Follow token rows into tensors that hold tokens along other axes, as scores and biases of attention do.

An axis is a *token axis* of a tensor if each element depends only on those tokens of its sequence that its indices
along such axes name. Rows of tokens [B, S, …] have one, the second. Behind the heads, multiplied with a table and
looked up by relative positions they keep it, elsewhere. Axes are counted from the last: -1. Which sequence an element
is of is told by its index along the first axis (behind axes of size 1), which runs over sequences, or over sequences
and, inside of each, other things.

Rows of padding may hold anything, zeros among it, where others stood. So only operators are followed that give a
finite number for finite ones and cannot fail: what is divided by tokens, or looked up by them, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_graphsurgeon as gs

from turbo_onnx.dims import Dim, as_dim, product
from turbo_onnx.graph import Tensor, is_op

Axes = frozenset[int]


def token_axes(node: gs.Node, operands: Mapping[int, Axes], batch: Dim | int) -> Axes | None:
    """The token axes of the node's result; None if it mixes tokens or sequences, or is not known not to.

    Args:
        node: with shapes.
        operands: the token axes of those operands, by their index, that depend on tokens' rows.
        batch: how many sequences there are.
    """
    result = node.outputs[0]
    if len(node.outputs) > 1 or not result.shape or any(not node.inputs[index].shape for index in operands):
        return None
    if is_op(node, *_REARRANGING):
        return _rearranged(node, operands, batch)
    rule = _RULES.get(node.op) if is_op(node, node.op) else None
    axes = None if rule is None else rule(node, operands)
    if axes is None:
        return None
    for index, own in operands.items():  # nothing is repeated along these axes, or left out
        operand = node.inputs[index]
        if _rank(operand) != _rank(result) or operand.shape[0] != result.shape[0] or operand.shape[0] == 1 != batch:
            return None
        if {operand.shape[axis] for axis in own} != {result.shape[axis] for axis in axes}:
            return None
    return axes


def _broadcast(node: gs.Node, operands: Mapping[int, Axes]) -> Axes | None:
    return Axes().union(*operands.values())


def _first_operand(node: gs.Node, operands: Mapping[int, Axes]) -> Axes | None:
    return operands[0] if set(operands) == {0} else None


def _transposed(node: gs.Node, operands: Mapping[int, Axes]) -> Axes | None:
    rank = _rank(node.inputs[0])
    order = list(node.attrs.get("perm") or reversed(range(rank)))
    return Axes(order.index(axis + rank) - rank for axis in operands[0]) if order[0] == 0 else None


def _matrix_product(node: gs.Node, operands: Mapping[int, Axes]) -> Axes | None:
    """Rows of the first operand and columns of the second stay; what is summed over must hold no tokens."""
    if any(_rank(node.inputs[index]) < 3 for index in operands):
        return None
    if -1 in operands.get(0, Axes()) or -2 in operands.get(1, Axes()):
        return None
    return Axes().union(*operands.values())


def _looked_up(node: gs.Node, operands: Mapping[int, Axes]) -> Axes | None:
    """GatherElements: along other axes than its own every element comes from its own place."""
    if set(operands) != {0}:
        return None
    axis = node.attrs.get("axis", 0)
    axis = axis if axis < 0 else axis - _rank(node.inputs[0])
    return None if axis == -_rank(node.inputs[0]) or axis in operands[0] else operands[0]


def _rearranged(node: gs.Node, operands: Mapping[int, Axes], batch: Dim | int) -> Axes | None:
    """An axis stays one where as many elements lie before it, along it and behind it as did.

    Elements stay in their order, so the first axis runs over sequences where it is as long as it was, if the second was
    joined to it, or if there are as many as sequences.
    """
    if set(operands) != {0}:
        return None
    before, after = _positions(node.inputs[0]), _positions(node.outputs[0])
    (first, second), (new, _) = _first_two(node.inputs[0]), _first_two(node.outputs[0])
    if new not in (first, first * second, batch):
        return None
    axes = set()
    for axis in operands[0]:
        here = [place for place, position in after.items() if position == before[axis]]
        if len(here) != 1:
            return None
        axes.add(here[0])
    return Axes(axes)


def _first_two(tensor: Tensor) -> tuple[Dim | int, Dim | int]:
    """The sizes of the first two axes behind those of size 1."""
    sizes = [as_dim(size) for size in tensor.shape]
    first = next((axis for axis, size in enumerate(sizes) if size != 1), 0)
    return sizes[first], (*sizes[first + 1 :], 1)[0]


def _positions(tensor: Tensor) -> dict[int, tuple[Dim | int, ...]]:
    """For each axis how many elements lie before it, along it and behind it."""
    sizes = [as_dim(size) for size in tensor.shape]
    return {
        axis - len(sizes): (product(sizes[:axis]), size, product(sizes[axis + 1 :])) for axis, size in enumerate(sizes)
    }


def _rank(tensor: Tensor) -> int:
    return len(tensor.shape)


_REARRANGING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_RULES: dict[str, Callable[[gs.Node, Mapping[int, Axes]], Axes | None]] = {
    **dict.fromkeys(
        "Abs Add Cast Clip Erf Identity Max Mean Min Mul Neg Relu Sigmoid Sub Sum Tanh Where".split(), _broadcast
    ),
    **dict.fromkeys(("Div", "Expand", "Tile"), _first_operand),
    "GatherElements": _looked_up,
    "MatMul": _matrix_product,
    "Transpose": _transposed,
}
