"""What a chain of Reshape, Transpose, Split and Gather nodes does to a tensor's axes, whatever its spelling.

Exporters split and merge attention heads in a dozen ways. All of them only cut the axes of one tensor into pieces,
reorder the pieces, pick some and glue them together again. A `View` says which pieces of which axis of a *source*
tensor make up each axis of the viewed tensor, so that two spellings of one thing have equal views.

    source [B, S, 3*H*D]  ─Reshape─▶ [B, S, 3, H, D]  ─Gather(axis 2, index 1)─▶  ─Transpose─▶ [B, H, S, D]
    view of the last in the first: axes ((B), (H, stride D), (S), (D, stride 1)), offset H*D on axis 2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.attributes import UNKNOWN, Unknown, read
from turbo_onnx.dims import Dim, as_dim, divide_exactly, product
from turbo_onnx.graph import Shape, Tensor, input_or_none, is_op, producer, scalar_value

LONGEST_CHAIN = 16
Size = Dim | int


@dataclass(frozen=True)
class Piece:
    """A regular cut of one axis of the source: `size` steps of `stride` elements of that axis."""

    axis: int
    size: Size
    stride: Size


Axis = tuple[Piece, ...]  # row-major; an axis of size 1 is ()


@dataclass(frozen=True)
class View:
    """How a tensor's axes are made of a source tensor's.

    Attributes:
        axes: for each axis of the viewed tensor its pieces, the slowest first.
        offsets: (source axis, elements) for what was picked from the middle of an axis, in the order of picking.
        factor: the number that every element was multiplied with.
    """

    axes: tuple[Axis, ...]
    offsets: tuple[tuple[int, Size], ...] = ()
    factor: float = 1.0

    def offset(self, axis: int) -> Size:
        """How many elements into the source's axis the viewed part begins."""
        total: Size = 0
        for where, amount in self.offsets:
            if where == axis:
                total = total + amount
        return total


def whole(shape: Sequence[int | str]) -> View:
    """The view of a tensor of this shape in itself."""
    return View(tuple(axis_of(index, item) for index, item in enumerate(shape)))


def axis_of(index: int, item: int | str) -> Axis:
    """All of the source's axis `index`, of size `item`."""
    size = as_dim(item)
    return () if size == 1 else (Piece(index, size, 1),)


def positions(axis: Axis) -> np.ndarray | None:
    """The element of the source's axis behind each element of the viewed one; None where sizes are symbolic."""
    result = np.zeros(1, np.int64)
    for piece in axis:
        if not isinstance(piece.size, int) or not isinstance(piece.stride, int):
            return None
        result = (result[:, None] + np.arange(piece.size, dtype=np.int64) * piece.stride).reshape(-1)
    return result


@dataclass(frozen=True)
class Ancestor:
    """A tensor that the viewed tensor is a view of.

    Attributes:
        tensor: the source.
        view: of the viewed tensor, in terms of the source's axes.
        nodes: the nodes between them, the source's reader first.
    """

    tensor: Tensor
    view: View
    nodes: tuple[gs.Node, ...]


def ancestors(tensor: Tensor, opset: int) -> Iterator[Ancestor]:
    """The tensors that `tensor` is a view of, itself first, as far up as views go."""
    chain: list[tuple[gs.Node, Tensor]] = []  # nearest first: (node, what it computes for us)
    current = tensor
    while current.shape is not None and None not in current.shape:
        view = _replayed(whole(current.shape), reversed(chain), opset)
        if view is None:
            return
        yield Ancestor(current, view, tuple(node for node, _ in reversed(chain)))
        node = producer(current)
        source = viewed_input(node)
        if node is None or source is None or len(chain) == LONGEST_CHAIN:
            return
        chain.append((node, current))
        current = source


def viewed_input(node: gs.Node | None) -> Tensor | None:
    """The tensor that the node shows in another way; None if the node does more than that."""
    if is_op(node, "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Gather", "Slice", "Split"):
        assert node is not None
        return input_or_none(node, 0)
    return scaled_input(node)[0]


def scaled_input(node: gs.Node | None) -> tuple[Tensor | None, float]:
    """The tensor that the node multiplies with a constant number, and the number; (None, 1) for any other node."""
    if node is None or not is_op(node, "Mul", "Div"):
        return None, 1.0
    for index in (1, 0) if node.op == "Mul" else (1,):
        operand, constant = node.inputs[1 - index], node.inputs[index]
        number = scalar_value(constant)
        if number is None or isinstance(operand, gs.Constant) or operand.shape is None:
            continue
        factor = float(number)
        result = node.outputs[0].shape
        broadcasts = result is None or list(result) != list(operand.shape)
        if broadcasts or not np.isfinite(factor) or factor == 0.0:
            continue
        if node.op == "Div":
            factor = 1.0 / factor
        elif index == 0 and scalar_value(operand) is not None:
            continue
        return operand, factor
    return None, 1.0


def _replayed(view: View, steps: Iterator[tuple[gs.Node, Tensor]], opset: int) -> View | None:
    result: View | None = view
    for node, output in steps:
        result = None if result is None else applied(result, node, output, opset)
    return result


def applied(view: View, node: gs.Node, output: Tensor, opset: int) -> View | None:
    """The view of the node's `output`, given the view of its input; None where it cannot be told."""
    if node.op in ("Mul", "Div"):
        return replace(view, factor=view.factor * scaled_input(node)[1])
    if node.op == "Identity":
        return view
    if node.op in ("Reshape", "Flatten"):
        axes = regrouped([piece for axis in view.axes for piece in axis], output.shape)
        return None if axes is None else replace(view, axes=axes)
    if node.op == "Transpose":
        order = node.attrs.get("perm") or list(range(len(view.axes)))[::-1]
        return replace(view, axes=tuple(view.axes[index] for index in order))
    if node.op in ("Unsqueeze", "Squeeze"):
        return _with_unit_axes(view, node, output, opset)
    if node.op == "Gather":
        return _gathered(view, node, opset)
    if node.op == "Split":
        return _split(view, node, output, opset)
    return _sliced(view, node)


def _with_unit_axes(view: View, node: gs.Node, output: Tensor, opset: int) -> View | None:
    axes = read(node, "axes", opset)
    if axes is UNKNOWN:
        return None
    if node.op == "Squeeze":
        rank = len(view.axes)
        gone = {axis % rank for axis in axes} if axes is not None else None
        if gone is None or any(view.axes[axis] for axis in gone):
            return None
        return replace(view, axes=tuple(axis for index, axis in enumerate(view.axes) if index not in gone))
    rank = len(view.axes) + len(axes)
    new = {axis % rank for axis in axes}
    old = iter(view.axes)
    return replace(view, axes=tuple(() if index in new else next(old) for index in range(rank)))


def _gathered(view: View, node: gs.Node, opset: int) -> View | None:
    where = node.inputs[1]
    index = scalar_value(where)
    axis = int(read(node, "axis", opset) or 0) % len(view.axes)
    if index is None or tuple(where.shape) not in ((), (1,)):
        return None
    picked = _part(view, axis, int(index), 1)
    if picked is None or len(where.shape) == 1:
        return picked
    return replace(picked, axes=picked.axes[:axis] + picked.axes[axis + 1 :])


def _split(view: View, node: gs.Node, output: Tensor, opset: int) -> View | None:
    axis = int(read(node, "axis", opset) or 0) % len(view.axes)
    number = next(index for index, tensor in enumerate(node.outputs) if tensor is output)
    sizes = [None if tensor.shape is None else tensor.shape[axis] for tensor in node.outputs[: number + 1]]
    known = [size for size in sizes if isinstance(size, int)]
    return _part(view, axis, sum(known[:-1]), known[-1]) if len(known) == len(sizes) else None


def _sliced(view: View, node: gs.Node) -> View | None:
    start, end, axis, step = (_single(input_or_none(node, index)) for index in (1, 2, 3, 4))
    if not isinstance(start, int) or not isinstance(end, int) or isinstance(axis, Unknown) or step not in (None, 1):
        return None
    where = (axis or 0) % len(view.axes)
    size = product(piece.size for piece in view.axes[where])
    if not isinstance(size, int):
        return None
    first, last = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (start, end))
    return _part(view, where, first, last - first)


def _single(tensor: Tensor | None) -> int | Unknown | None:
    """The one integer of a constant; None where there is no tensor, UNKNOWN where it is anything else."""
    if tensor is None:
        return None
    if not isinstance(tensor, gs.Constant) or tensor.values.size != 1:
        return UNKNOWN
    return int(tensor.values.reshape(-1)[0])


def _part(view: View, axis: int, start: int, length: int) -> View | None:
    """Elements start … start + length of a viewed axis, where they are whole steps of a regular cut."""
    pieces = view.axes[axis]
    size = product(piece.size for piece in pieces)
    if not isinstance(size, int):
        return None
    start += size if start < 0 else 0
    if (start, length) == (0, size):
        return view
    if length < 1 or size % length or start % length:
        return None
    groups = regrouped(list(pieces), [size // length, length])
    if groups is None:
        return None
    taken = positions(groups[0])
    if taken is None or len({piece.axis for piece in groups[0]}) != 1:
        return None
    offset = (groups[0][0].axis, int(taken[start // length]))
    axes = (*view.axes[:axis], groups[1], *view.axes[axis + 1 :])
    return replace(view, axes=axes, offsets=(*view.offsets, offset))


def regrouped(pieces: list[Piece], shape: Shape) -> tuple[Axis, ...] | None:
    """The pieces, in their order, as the axes of a tensor reshaped to `shape`; None where the cuts cannot be proven.

    Cuts are matched from both ends. What remains in the middle is settled by the number of elements, which a Reshape
    keeps.
    """
    if shape is None or None in shape:
        return None
    targets = [as_dim(item) for item in shape]
    rest = list(pieces)
    left: list[Axis] = []
    while targets:
        axis = _taken(rest, targets[0], front=True)
        if axis is None:
            break
        left.append(axis)
        targets.pop(0)
    right: list[Axis] = []
    while targets:
        axis = _taken(rest, targets[-1], front=False)
        if axis is None:
            break
        right.insert(0, axis)
        targets.pop()
    if len(targets) == 1 and rest:
        middle: list[Axis] = [tuple(rest)]
    elif len(rest) == 1 and targets:
        middle = _cut(rest[0], targets)
    elif not rest and not targets:
        middle = []
    else:
        return None
    return (*left, *middle, *right)


def _taken(rest: list[Piece], target: Size, *, front: bool) -> Axis | None:
    """Take pieces that multiply to `target` off one end of `rest`, cutting the last one if need be; None undoes all."""
    pieces = list(rest)
    axis: list[Piece] = []
    while target != 1:
        if not pieces:
            return None
        piece = pieces.pop(0 if front else -1)
        remaining = divide_exactly(target, piece.size)
        if remaining is not None:
            target, part = remaining, piece
        else:
            other = divide_exactly(piece.size, target)
            if other is None:
                return None
            inner_size = other if front else target
            outer = Piece(piece.axis, target if front else other, piece.stride * inner_size)
            inner = Piece(piece.axis, inner_size, piece.stride)
            part, kept = (outer, inner) if front else (inner, outer)
            pieces.insert(0 if front else len(pieces), kept)
            target = 1
        axis.insert(len(axis) if front else 0, part)
    rest[:] = pieces
    return tuple(axis)


def _cut(piece: Piece, sizes: Sequence[Size]) -> list[Axis]:
    """One piece cut into pieces of the given sizes, whose product its size is known to be."""
    axes: list[Axis] = []
    stride = piece.stride
    for size in reversed(sizes):
        axes.insert(0, () if size == 1 else (Piece(piece.axis, size, stride),))
        stride = stride * size
    return axes
