"""Where the heads of an attention come from, and where they go: tensors [B, S, H*D] above and below [B, H, S, D]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, is_op, produced_by
from turbo_onnx.passes.grouped_heads import repeated_heads
from turbo_onnx.passes.reshaping import reshaped, transposed
from turbo_onnx.passes.views import Ancestor, View, applied, axis_of, positions, viewed_input, whole

_LONGEST_MERGE = 8


@dataclass(frozen=True)
class Source:
    """A tensor that holds the heads of an operand [B, H, S, D] side by side on its last axis.

    Attributes:
        tensor: [B, S, N], or [S, B, N].
        columns: [H*D], which of the N columns the operand's are, head by head.
        sequence_first: [S, B, N].
        factor: what the operand is the tensor's multiple by.
        nodes: between the tensor and the operand, the tensor's reader first.
    """

    tensor: Tensor
    columns: np.ndarray
    sequence_first: bool
    factor: float
    nodes: tuple[gs.Node, ...]

    @property
    def takes_all(self) -> bool:
        """Whether the operand's columns are all of the tensor's, in order."""
        width = self.tensor.shape[2]
        return bool(self.columns.size == width and (self.columns == np.arange(width)).all())


def sources(found: Sequence[Ancestor]) -> list[Source]:
    """Those of an operand's ancestors that hold its heads side by side, the nearest first."""
    result = []
    for ancestor in found:
        shape = ancestor.tensor.shape
        if len(shape) != 3 or any(axis != 2 for axis, _ in ancestor.view.offsets):
            continue
        batch, head, sequence, feature = ancestor.view.axes
        straight = (batch, sequence) == (axis_of(0, shape[0]), axis_of(1, shape[1]))
        swapped = (sequence, batch) == (axis_of(0, shape[0]), axis_of(1, shape[1]))
        rows, columns = positions(head), positions(feature)
        offset = ancestor.view.offset(2)
        if not (straight or swapped) or rows is None or columns is None or not isinstance(offset, int):
            continue
        if any(piece.axis != 2 for piece in (*head, *feature)):
            continue
        picked = (offset + rows[:, None] + columns).reshape(-1)
        result.append(Source(ancestor.tensor, picked, not straight, ancestor.view.factor, ancestor.nodes))
    return result


def heads_beside_features(found: Sequence[Ancestor]) -> Ancestor | None:
    """The operand's ancestor [B, S, H, D], if it has one."""
    for ancestor in found:
        shape = ancestor.tensor.shape
        if len(shape) != 4 or ancestor.view.offsets:
            continue
        if ancestor.view.axes == tuple(axis_of(axis, shape[axis]) for axis in (0, 2, 1, 3)):
            return ancestor
    return None


def side_by_side(edit: Editor, shape: Sequence[int | str], found: Sequence[Ancestor]) -> tuple[Tensor, float]:
    """An operand [B, H, S, D] with known H and D as [B, S, H*D], and the number by which to multiply that.

    Args:
        edit: of the graph.
        shape: the operand's.
        found: its ancestors.
    """
    batch, heads, rows, size = shape
    assert isinstance(heads, int)
    assert isinstance(size, int)
    beside = heads_beside_features(found)
    ancestor = beside or moved_to_and_fro(found)
    repeated = repeated_heads(ancestor.tensor) if beside is None else None
    if repeated is not None and not repeated.tokens_first:
        return repeated.side_by_side(edit), ancestor.view.factor
    apart = len(ancestor.tensor.shape) == 5  # [B, S, H, 1, D], which was to be repeated
    split = ancestor.tensor if beside is not None or apart else transposed(edit, ancestor.tensor, (0, 2, 1, 3))
    return reshaped(edit, split, [0, 0, heads * size], [batch, rows, heads * size]), ancestor.view.factor


def moved_to_and_fro(found: Sequence[Ancestor]) -> Ancestor:
    """The operand's farthest ancestor that is the operand itself, but for a factor."""
    operand = found[0]
    unchanged = [each for each in found if each.view.axes == operand.view.axes and not each.view.offsets]
    return next(each for each in reversed(unchanged) if list(each.tensor.shape) == list(operand.tensor.shape))


def by_head(shape: Sequence[int | str], found: Sequence[Ancestor]) -> Ancestor | None:
    """What an operand [B, H, S, D] is made of that is [B, H, S, D] itself, but for a factor."""
    ancestor = moved_to_and_fro(found)
    straight = ancestor.view.axes == whole(shape).axes and not ancestor.view.offsets
    return ancestor if straight and list(ancestor.tensor.shape) == list(shape) else None


def is_side_by_side(found: Sequence[Ancestor]) -> bool:
    """Whether the heads of an operand lie beside each other somewhere above it, so that rows of them cost nothing."""
    apart = len(moved_to_and_fro(found).tensor.shape) == 5  # [B, S, H, 1, D]
    return apart or heads_beside_features(found) is not None or whole_source(found) is not None


def whole_source(found: Sequence[Ancestor]) -> Source | None:
    """The farthest tensor of rows of which the operand is all columns, in order.

    Not a single head [B, 1, S, D] without its axis: its rows are made as those of several heads are, by a Transpose
    that may undo the one above it.
    """
    source = next((source for source in reversed(sources(found)) if source.takes_all), None)
    return None if source is None or _is_squeezed(source.tensor) else source


def _is_squeezed(tensor: Tensor) -> bool:
    """Whether [B, S, D] is made of a single head [B, 1, S, D]."""
    node = produced_by(tensor, "Reshape", "Squeeze")
    batch, rows, size = tensor.shape
    return node is not None and node.inputs[0].shape == [batch, 1, rows, size]


def is_split_or_merged(edit: Editor, output: Tensor, found: Sequence[Sequence[Ancestor]], opset: int) -> bool:
    """Whether any operand of an attention is split into heads above it, or its output's heads are merged below it."""
    if any(sources(chain) or heads_beside_features(chain) for chain in found):
        return True
    return _merged(edit, output, opset) is not None


def replace_merged(edit: Editor, output: Tensor, result: Tensor, opset: int) -> None:
    """Put `result` [B, S, H*D] in the place of an attention's `output` [B, H, S, D] and of the merge of its heads."""
    merged = _merged(edit, output, opset)
    if merged is None:
        batch, heads, rows, size = output.shape
        split = reshaped(edit, result, [0, 0, heads, size], [batch, rows, heads, size])
        edit.replace(output, transposed(edit, split, (0, 2, 1, 3)))
        return
    for tensor, sequence_first in merged:
        new = transposed(edit, result, (1, 0, 2)) if sequence_first else result
        if len(tensor.shape) == 2:
            new = reshaped(edit, new, [-1, new.shape[2]], tensor.shape)
        edit.replace(tensor, new)


_Merged = list[tuple[Tensor, bool]]  # tensors, and whether the sequence comes first in them


@dataclass
class _Way:
    """What lies between an attention's output and its merges: the nodes, and tensors of the sizes on the way."""

    nodes: list[gs.Node] = field(default_factory=list)
    sizes: list[Tensor] = field(default_factory=list)


def _merged(edit: Editor, output: Tensor, opset: int) -> _Merged | None:
    """All that is made of [B, H, S, D], where that is only [B, S, H*D], [B*S, H*D], or with B and S the other way.

    Sizes on the way may be read for what lies on it.
    """
    way = _Way()
    found = _merges(edit, output, (whole(output.shape), whole(output.shape)), opset, _LONGEST_MERGE, way)
    inside = {id(node) for node in way.nodes}
    return found if all(_goes_with(tensor, inside, edit, _LONGEST_MERGE) for tensor in way.sizes) else None


def _merges(
    edit: Editor, current: Tensor, views: tuple[View, View], opset: int, depth: int, way: _Way
) -> _Merged | None:
    view, full = views
    batch, head, rows, feature = full.axes
    width = head + feature
    for first, second in ((batch, rows), (rows, batch)):
        if view.axes in ((first, second, width), (first + second, width)):
            return [(current, first != batch)]
    if edit.is_graph_output(current) or depth == 0:
        return None
    found: _Merged = []
    for node in current.outputs:
        if is_op(node, "Shape"):
            way.sizes.append(node.outputs[0])
            continue
        if node.op in ("Mul", "Div") or viewed_input(node) is not current or len(node.outputs) != 1:
            return None
        below = node.outputs[0]
        after = None if below.shape is None else applied(view, node, below, opset)
        way.nodes.append(node)
        merged = None if after is None or after.offsets else _merges(edit, below, (after, full), opset, depth - 1, way)
        if merged is None:
            return None
        found += merged
    return found or None


def only_for(tensor: Tensor, nodes: Sequence[gs.Node], edit: Editor) -> bool:
    """Whether nothing needs the tensor once the given nodes are gone, the last of which is the attention.

    What only computes shapes for the nodes goes with them.
    """
    inside = {id(node) for node in nodes}
    between = [tensor, *(output for node in nodes[:-1] for output in node.outputs)]
    return all(_goes_with(made, inside, edit, _LONGEST_MERGE) for made in between)


def _goes_with(tensor: Tensor, inside: set[int], edit: Editor, depth: int) -> bool:
    if depth == 0 or edit.is_graph_output(tensor):
        return False
    for reader in tensor.outputs:
        if id(reader) in inside:
            continue
        if not all(output.outputs and _goes_with(output, inside, edit, depth - 1) for output in reader.outputs):
            return False
    return True
