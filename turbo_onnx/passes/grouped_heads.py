"""Keys and values that several heads of queries share, which exporters write down once for each of them.

    [B, G, S, D] ─Unsqueeze─▶ [B, G, 1, S, D] ─Expand─▶ [B, G, n, S, D] ─Reshape─▶ [B, G*n, S, D]

or the same with tokens in front, [B, S, G, D], or from one head to all by an Expand alone. VarlenAttention takes such
heads as they are. Where only keys or only values are repeated they are so with the tokens in front, so that it can be
done for real tokens only, and nothing has to be transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, produced_by
from turbo_onnx.passes.reshaping import reshaped, transposed
from turbo_onnx.passes.views import Ancestor, ancestors, axis_of

_TOKENS_FIRST = (0, 2, 1, 3)


@dataclass(frozen=True)
class Repeated:
    """Heads before they were repeated.

    Attributes:
        heads: [B, G, S, D]; or [B, S, G, D] or [B, S, G, 1, D].
        tokens_first: whether it is one of the latter.
        times: how often each head follows itself.
        nodes: that repeat them, the first one first.
    """

    heads: Tensor
    tokens_first: bool
    times: int
    nodes: tuple[gs.Node, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Where B, G, S and D are among the axes of `heads`."""
        return (0, 2, 1, len(self.heads.shape) - 1) if self.tokens_first else (0, 1, 2, 3)

    @property
    def sizes(self) -> tuple[int | str, ...]:
        """B, G, S, D."""
        return tuple(self.heads.shape[axis] for axis in self.order)

    def side_by_side(self, edit: Editor) -> Tensor:
        """All heads, repeated, as [B, S, G*n*D]."""
        batch, groups, rows, size = self.sizes
        assert isinstance(groups, int)
        assert isinstance(size, int)
        split = self.heads if self.tokens_first else transposed(edit, self.heads, _TOKENS_FIRST)
        apart = reshaped(edit, split, [0, 0, groups, 1, size], [batch, rows, groups, 1, size])
        target = edit.constant(np.array([1, 1, 1, self.times, 1], np.int64), "repeated_shape")
        shape = [batch, rows, groups, self.times, size]
        repeated = edit.node("Expand", [apart, target], dtype=self.heads.dtype, shape=shape)
        width = groups * self.times * size
        return reshaped(edit, repeated, [0, 0, width], [batch, rows, width])


@dataclass(frozen=True)
class Shared:
    """The heads of an operand before they were repeated.

    Attributes:
        shape: B, G, S, D.
        found: the ancestors of the heads, as those of a tensor of that shape.
        times: how often each head follows itself in the operand.
    """

    shape: tuple[int | str, ...]
    found: list[Ancestor]
    times: int


def before_repeating(found: Sequence[Ancestor], opset: int) -> Shared | None:
    """What an operand [B, H, S, D] is repeated of; None where it is not.

    Args:
        found: the operand's ancestors, itself first.
        opset: of the standard operators.
    """
    for ancestor in reversed(found):
        tokens_first = _is_operand(ancestor, found[0], tokens_first=True)
        if not tokens_first and not _is_operand(ancestor, found[0], tokens_first=False):
            continue
        repeated = repeated_heads(ancestor.tensor)
        if repeated is None or repeated.tokens_first is not tokens_first:
            continue
        behind = (*repeated.nodes, *ancestor.nodes)
        above = [_as_operand(each, repeated, behind, ancestor.view.factor) for each in ancestors(repeated.heads, opset)]
        return Shared(repeated.sizes, above, repeated.times)
    return None


def _is_operand(ancestor: Ancestor, operand: Ancestor, *, tokens_first: bool) -> bool:
    """Whether the ancestor is the operand itself, but for a factor; or with its tokens in front."""
    shape = list(ancestor.tensor.shape)
    order = _TOKENS_FIRST if tokens_first else range(4)
    if len(shape) != 4 or ancestor.view.offsets or [shape[axis] for axis in order] != list(operand.tensor.shape):
        return False
    return ancestor.view.axes == tuple(axis_of(axis, shape[axis]) for axis in order)


def _as_operand(ancestor: Ancestor, repeated: Repeated, behind: tuple[gs.Node, ...], factor: float) -> Ancestor:
    """An ancestor of the heads as one of a tensor [B, G, S, D] with the nodes behind them, and a further factor."""
    axes = tuple(ancestor.view.axes[axis] for axis in repeated.order)
    view = replace(ancestor.view, axes=axes, factor=ancestor.view.factor * factor)
    return Ancestor(ancestor.tensor, view, (*ancestor.nodes, *behind))


def repeated_heads(tensor: Tensor) -> Repeated | None:
    """What the heads [B, H, S, D] or [B, S, H, D] are repeated of; None where they are not."""
    expanded = produced_by(tensor, "Expand")
    if expanded is not None:
        return _of_one(expanded)
    joined = produced_by(tensor, "Reshape")
    repeating = None if joined is None else produced_by(joined.inputs[0], "Expand", "Tile")
    if joined is None or repeating is None:
        return None
    apart, wide = repeating.inputs[0], joined.inputs[0].shape
    if apart.shape is None or wide is None or not len(apart.shape) == len(wide) == 5:
        return None
    for tokens_first, axis in ((False, 2), (True, 3)):
        groups, times, size = wide[axis - 1], wide[axis], wide[4]
        if not all(isinstance(number, int) for number in (groups, times, size)):
            continue
        once = [*wide[:axis], 1, *wide[axis + 1 :]]
        together = [*wide[: axis - 1], groups * times, *wide[axis + 1 :]]
        if list(apart.shape) != once or list(tensor.shape) != together:
            continue
        inserting = produced_by(apart, "Unsqueeze", "Reshape")
        if inserting is not None and inserting.inputs[0].shape == [*wide[:axis], *wide[axis + 1 :]]:
            return Repeated(inserting.inputs[0], tokens_first, times, (inserting, repeating, joined))
        if tokens_first:
            return Repeated(apart, tokens_first, times, (repeating, joined))
    return None


def _of_one(expanded: gs.Node) -> Repeated | None:
    """One head [B, 1, S, D] or [B, S, 1, D] that is broadcast to all."""
    heads, wide = expanded.inputs[0], expanded.outputs[0].shape
    if heads.shape is None or wide is None or len(heads.shape) != 4 or len(wide) != 4:
        return None
    for tokens_first, axis in ((False, 1), (True, 2)):
        times = wide[axis]
        shape = list(wide)
        shape[axis] = 1
        if isinstance(times, int) and isinstance(wide[3], int) and list(heads.shape) == shape:
            return Repeated(heads, tokens_first, times, (expanded,))
    return None
