"""Attention written on three axes: [B*H, S, D] with all heads of all sequences in one, brought to [B, H, S, D].

Any split of the first axis gives the same numbers, so nothing has to be proven here. The number of heads is looked up
to get the split that lets the head split and merge be folded away later; where it cannot be found, H is 1.
"""

from __future__ import annotations

from turbo_onnx.dims import as_dim, as_item, divide_exactly
from turbo_onnx.graph import Editor, Tensor, produced_by
from turbo_onnx.passes.reshaping import reshaped, squeezed, unsqueezed
from turbo_onnx.passes.views import ancestors


def heads_of(tensor: Tensor, axis: int, opset: int) -> int | None:
    """The number of heads behind the batch in one axis of the tensor, read off the split that made it."""
    for ancestor in ancestors(tensor, opset):
        pieces = ancestor.view.axes[axis]
        if len(pieces) == 2 and pieces[0].axis != pieces[1].axis and isinstance(pieces[1].size, int):
            return pieces[1].size
    return None


def with_heads(edit: Editor, tensor: Tensor, heads: int | None, opset: int) -> Tensor:
    """[B*H, …, …] as [B, H, …, …]; [B, …, …] as [B, 1, …, …] where `heads` is None."""
    if heads is None:
        return unsqueezed(edit, tensor, [1], opset)
    source = _before_joining(tensor, heads)
    if source is not None:
        return source
    batch = divide_exactly(as_dim(tensor.shape[0]), heads)
    first = f"{tensor.shape[0]}/{heads}" if batch is None else as_item(batch)
    wide = unsqueezed(edit, tensor, [0], opset)
    return reshaped(edit, wide, [-1, heads, 0, 0], [first, heads, *tensor.shape[1:]])


def without_heads(edit: Editor, tensor: Tensor, heads: int | None, opset: int) -> Tensor:
    """[B, H, …, …] as [B*H, …, …]; [B, 1, …, …] as [B, …, …] where `heads` is None."""
    if heads is None:
        return squeezed(edit, tensor, [1], opset)
    joined = as_item(as_dim(tensor.shape[0]) * heads)
    wide = reshaped(edit, tensor, [1, -1, 0, 0], [1, joined, *tensor.shape[2:]])
    return squeezed(edit, wide, [0], opset)


def _before_joining(tensor: Tensor, heads: int) -> Tensor | None:
    """The [B, H, …, …] tensor that a Reshape made the given one of."""
    node = produced_by(tensor, "Reshape")
    source = None if node is None else node.inputs[0]
    if source is None or source.shape is None or len(source.shape) != 4 or source.shape[1] != heads:
        return None
    return source if source.shape[2:] == tensor.shape[1:] else None
